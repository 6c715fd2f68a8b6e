"""Muon's update: the momentum of each matrix, orthogonalised by Newton-Schulz.

Five iterations of X <- a X + b (X X^T) X + c (X X^T)^2 X from X = M / ||M||_F bring every singular
value of M near one (k2-spec 5; Moonlight, arXiv 2502.16982). Every expert is its own matrix, and so
are the gate and the up half of a `gate_up_proj`. Scaled by 0.2 sqrt(max(n, m)) the update has an
RMS near 0.2, as AdamW's has, whatever the shape.

Shape letters: B matrices, R rows, C columns, R <= C.
"""

from __future__ import annotations

import mlx.core as mx

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
# The iteration runs on the R x R Gram matrix and is applied to X at these points. Small singular
# values lose digits in the Gram matrix, and TF32 products have few: forming it again in between
# keeps them.
RESTART_AFTER = 2
CHUNK_BYTES = 256 << 20


def newton_schulz(x: mx.array, steps: int = STEPS) -> mx.array:
    """x [B, R, C] -> its matrices with singular values near 1, float32.

    Equal to `newton_schulz_plain`; as p(XX^T) X is a product of polynomials in XX^T, they are
    multiplied in the small space first: for 32 x 256 experts that is a fifth of the arithmetic and
    of the traffic.
    """
    x = _normalise(x)
    while steps > 0:
        block = min(steps, RESTART_AFTER) if steps > RESTART_AFTER + 1 else steps
        x = _polynomial(x @ x.swapaxes(-1, -2), block) @ x
        steps -= block
    return x


def _polynomial(gram: mx.array, steps: int) -> mx.array:
    """The matrix that `steps` iterations multiply X with, from X's Gram matrix [B, R, R]."""
    a, b, c = COEFFICIENTS
    eye = mx.eye(gram.shape[-1])
    product = None
    for step in range(steps):
        p = a * eye + b * gram + c * (gram @ gram)
        product = p if product is None else p @ product
        if step < steps - 1:
            gram = p @ gram @ p
    assert product is not None
    return product


def newton_schulz_plain(x: mx.array, steps: int = STEPS) -> mx.array:
    """The iteration as it is written down: what `newton_schulz` is compared with."""
    a, b, c = COEFFICIENTS
    x = _normalise(x)
    for _ in range(steps):
        gram = x @ x.swapaxes(-1, -2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


def _normalise(x: mx.array) -> mx.array:
    x = x.astype(mx.float32)
    return x * mx.rsqrt(mx.sum(x * x, axis=(-2, -1), keepdims=True) + 1e-20)


def orthogonalize(momenta: dict[str, mx.array]) -> dict[str, mx.array]:
    """Orthogonalised, scaled updates of all matrices, by parameter name.

    Values [n, m] or stacks [E, n, m]. Matrices of one shape (or its transpose) from all layers go
    through one batched Newton-Schulz, in chunks of at most CHUNK_BYTES.
    """
    groups: dict[tuple[int, int], list[str]] = {}
    stacks = {name: _stack(name, value) for name, value in momenta.items()}
    for name, stack in stacks.items():
        groups.setdefault((stack.shape[1], stack.shape[2]), []).append(name)
    updates = {}
    for (rows, columns), names in groups.items():
        joined = mx.concatenate([stacks[name] for name in names])
        size = max(1, CHUNK_BYTES // (4 * rows * columns))
        parts = [newton_schulz(joined[i : i + size]) for i in range(0, joined.shape[0], size)]
        joined = mx.concatenate(parts) * (0.2 * columns**0.5)
        start = 0
        for name in names:
            stop = start + stacks[name].shape[0]
            updates[name] = _unstack(name, joined[start:stop], momenta[name].shape)
            start = stop
    return updates


def _matrix_shape(name: str, shape: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = shape[-2:]
    return (rows // 2, columns) if name.endswith("gate_up_proj.weight") else (rows, columns)


def _stack(name: str, value: mx.array) -> mx.array:
    """[..., n, m] -> [B, R, C]: the matrices that Muon sees, lying down."""
    rows, columns = _matrix_shape(name, value.shape)
    x = value.reshape(-1, rows, columns)
    return x.swapaxes(-1, -2) if rows > columns else x


def _unstack(name: str, x: mx.array, shape: tuple[int, ...]) -> mx.array:
    rows, columns = _matrix_shape(name, shape)
    return (x.swapaxes(-1, -2) if rows > columns else x).reshape(shape)
