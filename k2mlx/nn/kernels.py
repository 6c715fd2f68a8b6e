"""Experts on K2's INT4 grid in three kernels of our own, which need no biases.

MLX's kernels compute w = q * scale + bias, so they want an array of biases = -8 * scale that says
nothing: 63 GB for K2, an eighth of the bytes read. These subtract the 8 in a register:

    gate_up  silu(gate x) * up x of each token's K experts
    down     the weighted sum of their down projections
    expand   experts in bfloat16, for the products of many rows

Their text is written once, for CUDA and Metal, in what the two languages share; only the prologue
differs. A SIMD group (32 lanes) computes R output rows; a lane takes one group of 32 weights at a
time: 16 bytes of codes and one scale. Codes become floats by placing the nibble in the mantissa of
a power of two (no conversion instruction), sums are float32.

On CUDA they are used, measured beside mx.gather_qmm by `k2mlx bench --case experts` (CHANGELOG has
the figures). The Metal form has not run on a Mac: K2MLX_METAL_KERNELS=1 tries it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from math import gcd
from typing import Any

import mlx.core as mx

from ..config import QuantSpec

# Rows a SIMD group and SIMD groups a block, as measured on an H100 at K2's sizes.
GATE_UP_ROWS, GATE_UP_GROUPS = 1, 4
DOWN_ROWS, DOWN_GROUPS = 2, 2


def usable(spec: QuantSpec, dtype: mx.Dtype, shape: tuple[int, ...]) -> bool:
    """Whether experts [..., O, I] stored so can run here with activations of this dtype."""
    fits = shape[-2] % 8 == 0 and shape[-1] % 32 == 0  # the kernels' blocks; gate and up are two
    return spec.mode == "symmetric" and dtype == mx.bfloat16 and fits and dialect() is not None


def dialect() -> str | None:
    """The language of the default device's kernels, None where there is none to use."""
    if mx.default_device() == mx.cpu:
        return None
    if mx.metal.is_available():
        return "metal" if os.environ.get("K2MLX_METAL_KERNELS") == "1" else None
    return "cuda"


def gate_up(x: mx.array, indices: mx.array, weight: mx.array, scales: mx.array) -> mx.array:
    """x bfloat16 [T, H], indices uint32 [T, K], weight uint32 [E, 2I, H/8] (gate rows first),
    scales bfloat16 [E, 2I, H/32] -> silu(gate x) * up x, bfloat16 [T, K, I]."""
    tokens, hidden = x.shape
    chosen, width = indices.shape[1], weight.shape[1] // 2
    return _run(
        "gate_up",
        [x, indices, weight, scales],
        {"INPUTS": hidden, "OUTPUTS": width, "K": chosen, "R": GATE_UP_ROWS, "N": GATE_UP_GROUPS},
        rows=tokens * chosen,
        shape=(tokens, chosen, width),
    )


def down(
    x: mx.array, indices: mx.array, weights: mx.array, weight: mx.array, scales: mx.array
) -> mx.array:
    """x bfloat16 [T, K, I], indices uint32 [T, K], weights float32 [T, K], weight uint32 [E, H,
    I/8], scales bfloat16 [E, H, I/32] -> sum over K of weights * (down x), bfloat16 [T, H]."""
    tokens, chosen, width = x.shape
    hidden = weight.shape[1]
    return _run(
        "down",
        [x, indices, weights, weight, scales],
        {"INPUTS": width, "OUTPUTS": hidden, "K": chosen, "R": DOWN_ROWS, "N": DOWN_GROUPS},
        rows=tokens,
        shape=(tokens, hidden),
    )


def expand(weight: mx.array, scales: mx.array) -> mx.array:
    """weight uint32 [E, O, I/8], scales bfloat16 [E, O, I/32] -> bfloat16 [E, O, I]."""
    shape = (*weight.shape[:-1], weight.shape[-1] * 8)
    block = gcd(weight.size, 256)  # a thread for each word, and none over
    return _launch("expand", [weight, scales], {}, (weight.size, 1, 1), block, shape)


def _run(
    name: str, inputs: list[mx.array], sizes: dict[str, int], rows: int, shape: tuple[int, ...]
) -> mx.array:
    grid = (sizes["OUTPUTS"] // sizes["R"] * 32, rows, 1)
    return _launch(name, inputs, sizes, grid, sizes["N"] * 32, shape)


def _launch(
    name: str,
    inputs: list[mx.array],
    sizes: dict[str, int],
    grid: tuple[int, int, int],
    block: int,
    shape: tuple[int, ...],
) -> mx.array:
    language = dialect()
    assert language is not None
    (out,) = _kernel(name, language)(
        inputs=inputs,
        template=[("T", mx.bfloat16), *sizes.items()],
        grid=grid,
        threadgroup=(block, 1, 1),
        output_shapes=[shape],
        output_dtypes=[mx.bfloat16],
    )
    return out


@cache
def _kernel(name: str, language: str) -> Callable[..., list[mx.array]]:
    make = mx.fast.metal_kernel if language == "metal" else mx.fast.cuda_kernel
    inputs = {
        "gate_up": ["x", "indices", "weight", "scales"],
        "down": ["x", "indices", "weights", "weight", "scales"],
        "expand": ["weight", "scales"],
    }
    kernel: Any = make(
        name=f"k2_{name}",
        input_names=inputs[name],
        output_names=["out"],
        header=HEADERS[language] + SHARED,
        source=PROLOGUES[language] + SOURCES[name],
    )
    return kernel


HEADERS = {
    "cuda": """
#define DEVICE
#define THREAD
#define INLINE __device__ inline
#define AS_FLOAT(bits) __uint_as_float(bits)
#define AS_BITS(value) __float_as_uint(value)
INLINE float lane_sum(float v) {
  for (int s = 16; s > 0; s >>= 1) v += __shfl_xor_sync(0xffffffffu, v, s);
  return v;
}
""",
    "metal": """
#define DEVICE device
#define THREAD thread
#define INLINE inline
#define AS_FLOAT(bits) as_type<float>(uint(bits))
#define AS_BITS(value) as_type<uint>(float(value))
INLINE float lane_sum(float v) { return simd_sum(v); }
""",
}

# MLX looks for Metal's built-in names in the source, so they stand here and not in a macro.
PROLOGUES = {
    "cuda": """
  const unsigned lane = threadIdx.x & 31, group = threadIdx.x >> 5;
  const unsigned block = blockIdx.x, item = blockIdx.y;
  const unsigned place = blockIdx.x * blockDim.x + threadIdx.x;
""",
    "metal": """
  const unsigned lane = thread_index_in_simdgroup, group = simdgroup_index_in_threadgroup;
  const unsigned block = threadgroup_position_in_grid.x, item = threadgroup_position_in_grid.y;
  const unsigned place = thread_position_in_grid.x;
""",
}

SHARED = """
// A nibble n at bits 4p of a word, put into the mantissa of 2^(23-4p), is 2^(23-4p) + n exactly.
INLINE float dot8(unsigned q, const THREAD float* x) {  // sum of (nibble - 8) * x
  unsigned h = q >> 16;
  return (AS_FLOAT(0x4b000000u | (q & 0xfu)) - 8388616.0f) * x[0]
       + (AS_FLOAT(0x49000000u | (q & 0xf0u)) - 524296.0f) * x[1]
       + (AS_FLOAT(0x47000000u | (q & 0xf00u)) - 32776.0f) * x[2]
       + (AS_FLOAT(0x45000000u | (q & 0xf000u)) - 2056.0f) * x[3]
       + (AS_FLOAT(0x4b000000u | (h & 0xfu)) - 8388616.0f) * x[4]
       + (AS_FLOAT(0x49000000u | (h & 0xf0u)) - 524296.0f) * x[5]
       + (AS_FLOAT(0x47000000u | (h & 0xf00u)) - 32776.0f) * x[6]
       + (AS_FLOAT(0x45000000u | (h & 0xf000u)) - 2056.0f) * x[7];
}
INLINE float dot32(uint4 q, const THREAD float* x) {
  return dot8(q.x, x) + dot8(q.y, x + 8) + dot8(q.z, x + 16) + dot8(q.w, x + 24);
}
INLINE void load32(const DEVICE uint4* p, THREAD float* x) {  // 32 bfloat16
  for (int i = 0; i < 4; i++) {
    uint4 u = p[i];
    x[8 * i + 0] = AS_FLOAT(u.x << 16); x[8 * i + 1] = AS_FLOAT(u.x & 0xffff0000u);
    x[8 * i + 2] = AS_FLOAT(u.y << 16); x[8 * i + 3] = AS_FLOAT(u.y & 0xffff0000u);
    x[8 * i + 4] = AS_FLOAT(u.z << 16); x[8 * i + 5] = AS_FLOAT(u.z & 0xffff0000u);
    x[8 * i + 6] = AS_FLOAT(u.w << 16); x[8 * i + 7] = AS_FLOAT(u.w & 0xffff0000u);
  }
}
INLINE unsigned to_bf16(float v) {  // to the nearest, ties to even; v is finite
  unsigned bits = AS_BITS(v);
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
INLINE float bf16(unsigned short bits) { return AS_FLOAT((unsigned)bits << 16); }
"""

SOURCES = {
    # item: a (token, expert) pair.
    "gate_up": """
  const int G = INPUTS / 32;
  const unsigned first = (block * N + group) * R;
  const size_t row = (size_t)indices[item] * 2 * OUTPUTS + first;
  const DEVICE uint4* xs = (const DEVICE uint4*)x + (size_t)(item / K) * G * 4;
  const DEVICE uint4* ws = (const DEVICE uint4*)weight + row * G;
  const DEVICE unsigned short* ss = (const DEVICE unsigned short*)scales + row * G;
  float gate[R], up[R];
  for (int r = 0; r < R; r++) gate[r] = up[r] = 0.0f;
  for (int g = lane; g < G; g += 32) {
    uint4 gate_q[R], up_q[R];
    float gate_s[R], up_s[R], xv[32];
    for (int r = 0; r < R; r++) {  // all loads first: they wait together
      gate_q[r] = ws[(size_t)r * G + g];
      up_q[r] = ws[(size_t)(OUTPUTS + r) * G + g];
      gate_s[r] = bf16(ss[(size_t)r * G + g]);
      up_s[r] = bf16(ss[(size_t)(OUTPUTS + r) * G + g]);
    }
    load32(xs + g * 4, xv);
    for (int r = 0; r < R; r++) {
      gate[r] += gate_s[r] * dot32(gate_q[r], xv);
      up[r] += up_s[r] * dot32(up_q[r], xv);
    }
  }
  for (int r = 0; r < R; r++) {
    float a = lane_sum(gate[r]), b = lane_sum(up[r]);
    if (lane == 0) out[(size_t)item * OUTPUTS + first + r] = (T)(a / (1.0f + exp(-a)) * b);
  }
""",
    # item: a token.
    "down": """
  const int G = INPUTS / 32;
  const unsigned first = (block * N + group) * R;
  float total[R];
  for (int r = 0; r < R; r++) total[r] = 0.0f;
  for (int k = 0; k < K; k++) {
    const size_t pair = (size_t)item * K + k;
    const float share = weights[pair];
    const size_t row = (size_t)indices[pair] * OUTPUTS + first;
    const DEVICE uint4* xs = (const DEVICE uint4*)x + pair * G * 4;
    const DEVICE uint4* ws = (const DEVICE uint4*)weight + row * G;
    const DEVICE unsigned short* ss = (const DEVICE unsigned short*)scales + row * G;
    for (int g = lane; g < G; g += 32) {
      uint4 q[R];
      float s[R], xv[32];
      for (int r = 0; r < R; r++) {
        q[r] = ws[(size_t)r * G + g];
        s[r] = share * bf16(ss[(size_t)r * G + g]);
      }
      load32(xs + g * 4, xv);
      for (int r = 0; r < R; r++) total[r] += s[r] * dot32(q[r], xv);
    }
  }
  for (int r = 0; r < R; r++) {
    float v = lane_sum(total[r]);
    if (lane == 0) out[(size_t)item * OUTPUTS + first + r] = (T)v;
  }
""",
    # place: a word of eight codes. The grid has no more threads than there are words.
    "expand": """
  const unsigned q = weight[place];
  const float s = bf16(((const DEVICE unsigned short*)scales)[place / 4]);
  unsigned pairs[4];
  for (int i = 0; i < 4; i++) {
    const unsigned low = to_bf16(((int)(q >> (8 * i) & 15) - 8) * s);
    pairs[i] = low | to_bf16(((int)(q >> (8 * i + 4) & 15) - 8) * s) << 16;
  }
  DEVICE uint4* rows = (DEVICE uint4*)out;
  rows[place] = uint4{pairs[0], pairs[1], pairs[2], pairs[3]};
""",
}
