"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434), in its two equal forms.

All heads share one latent vector c a token; head h reads its keys and values from it:
k_h = W_UK,h c and v_h = W_UV,h c, beside one rotary key that all heads share. So
    q_h . k_h = q_h . (W_UK,h c) = (W_UK,h^T q_h) . c
and a head may either expand the cache to keys and values (plain) or move its query into the latent
space and attend there (absorbed). Plain costs less for many new tokens, absorbed for few.

Shape letters: B batch, L new tokens, S tokens in the cache, H heads, N/R/V nope, rope and value
size, C kv_lora_rank.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ..cache import BatchLayer, LatentCache, Rows
from ..config import ModelConfig
from .attention import expanded_attention, latent_attention, packed_attention
from .quant import QuantizedLinear, quantized_matmul
from .rope import YarnRope, softmax_scale

LORA_NORM_EPS = 1e-6  # the two low-rank norms ignore config.rms_norm_eps (k2-spec 0.2)


class MLA(nn.Module):
    """x [B, L, hidden] -> [B, L, hidden]. Names and row order of the matrices as in the
    checkpoints: of q_b_proj's N + R rows a head the rope part comes last, of kv_b_proj's N + V rows
    the value part."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        heads, hidden = config.num_attention_heads, config.hidden_size
        rope, rank = config.qk_rope_head_dim, config.kv_lora_rank
        self.q_a_proj = nn.Linear(hidden, config.q_lora_rank, bias=False)
        self.q_a_layernorm = nn.RMSNorm(config.q_lora_rank, eps=LORA_NORM_EPS)
        self.q_b_proj = nn.Linear(config.q_lora_rank, heads * config.qk_head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, rank + rope, bias=False)
        self.kv_a_layernorm = nn.RMSNorm(rank, eps=LORA_NORM_EPS)
        kv_rows = heads * (config.qk_nope_head_dim + config.v_head_dim)
        self.kv_b_proj = nn.Linear(rank, kv_rows, bias=False)
        self.o_proj = nn.Linear(heads * config.v_head_dim, hidden, bias=False)
        self.scale = softmax_scale(config)
        self._rope = YarnRope(config)
        self._split: tuple[mx.array, list[mx.array], list[mx.array]] | None = None

    def __call__(
        self,
        x: mx.array,
        cache: LatentCache | BatchLayer | None = None,
        segments: mx.array | None = None,
    ) -> mx.array:
        """With `segments` [B, L] a token sees only earlier tokens of its own segment (packed
        training)."""
        L, offset = x.shape[1], 0 if cache is None else cache.offset
        q_nope, q_rope, new = self.project(x, offset)
        rows: Rows = new if cache is None else cache.append(new)
        wait = cache is not None
        if isinstance(offset, mx.array):
            return self.merge(self.absorbed(q_nope, q_rope, rows, offset, wait))
        if segments is None and self.absorbed_is_cheaper(L, rows.shape[1]):
            return self.merge(self.absorbed(q_nope, q_rope, rows, None, wait))
        return self.merge(self.plain(q_nope, q_rope, rows, segments, wait))

    def project(self, x: mx.array, offset: int | mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """x [B, L, hidden] -> q_nope [B, H, L, N], q_rope [B, H, L, R], and the rows [B, L, C + R]
        to be cached."""
        B, L, _ = x.shape
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        q_BHLD = q.reshape(B, L, self.config.num_attention_heads, -1).transpose(0, 2, 1, 3)
        q_nope, q_rope = mx.split(q_BHLD, [self.config.qk_nope_head_dim], axis=-1)
        c, k_rope = mx.split(self.kv_a_proj_with_mqa(x), [self.config.kv_lora_rank], axis=-1)
        # The key that all heads share turns with the queries, as one head more.
        turned = self._rope(mx.concatenate([q_rope, k_rope[:, None]], axis=1), offset)
        rows = mx.concatenate([self.kv_a_layernorm(c), turned[:, -1]], axis=-1)
        return q_nope, turned[:, :-1], rows

    def merge(self, out: mx.array) -> mx.array:
        """The heads' outputs [B, H, L, V] -> [B, L, hidden]."""
        B, _, L, _ = out.shape
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(B, L, -1))

    def absorbed_is_cheaper(self, new: int, total: int) -> bool:
        """Multiplications a head, of L new tokens that see P = L S - L (L - 1) / 2 rows in all.

        Plain expands S rows to keys and values, S (C + R) (N + R + V), then needs N + R + V for
        each seen row: its score and its share of the sum. Absorbed moves L queries and L outputs,
        L C (N + V), then needs 2 (C + R). What softmax reads and writes is the same for both. With
        K2's sizes and P near L S absorbed wins up to L = 184,320 / 832 = 221 new tokens at depth:
        short verify steps and tool results, whatever S is.
        """
        c = self.config
        rank, rope, width = c.kv_lora_rank, c.qk_rope_head_dim, c.qk_head_dim + c.v_head_dim
        seen = new * total - new * (new - 1) // 2
        plain = total * (rank + rope) * width + seen * width
        absorbed = new * rank * (c.qk_nope_head_dim + c.v_head_dim) + seen * 2 * (rank + rope)
        return absorbed < plain

    def plain(
        self,
        q_nope: mx.array,
        q_rope: mx.array,
        rows: Rows,
        segments: mx.array | None = None,
        wait: bool = False,
    ) -> mx.array:
        """Expand the cache. q_nope [B, H, L, N], q_rope [B, H, L, R], rows [B, S, C + R] -> [B, H,
        L, V]. wait: may wait for the device between tiles, which bounds the memory."""
        q = mx.concatenate([q_nope, q_rope], axis=-1)
        if segments is None:
            return expanded_attention(q, rows, *self._row_matrices(q.dtype), self.scale, wait)
        assert isinstance(rows, mx.array), "segments are for training, which has no cache"
        (B, H), S = q.shape[:2], rows.shape[1]
        c, k_rope = mx.split(rows, [self.config.kv_lora_rank], axis=-1)
        kv = self.kv_b_proj(c).reshape(B, S, H, -1).transpose(0, 2, 1, 3)
        k_nope, v = mx.split(kv, [self.config.qk_nope_head_dim], axis=-1)
        k_rope = mx.broadcast_to(k_rope[:, None], (B, H, S, k_rope.shape[-1]))
        k = mx.concatenate([k_nope, k_rope], axis=-1)
        return packed_attention(q, k, v, self.scale, segments)

    def absorbed(
        self,
        q_nope: mx.array,
        q_rope: mx.array,
        rows: Rows,
        offset: mx.array | None = None,
        wait: bool = False,
    ) -> mx.array:
        """Attend in the latent space: one shared key [c, k_rope] and value c for all heads. Shapes
        as `plain`; offset [B]: how many rows each sequence had before the new ones, where that
        differs."""
        q = self.latent_queries(q_nope, q_rope)
        return self.from_latent(latent_attention(q, rows, self.scale, offset, wait))

    def latent_queries(self, q_nope: mx.array, q_rope: mx.array) -> mx.array:
        """Queries moved into the latent space, [B, H, L, C + R]."""
        w_uk, _ = self.latent_matrices()
        return mx.concatenate([self._by_head(q_nope, w_uk, transpose=False), q_rope], axis=-1)

    def from_latent(self, latent: mx.array) -> mx.array:
        """What `latent_attention` gives, [B, H, L, C + R], in each head's values: [B, H, L, V]."""
        # The values were the whole rows, with k_rope: less work than copying c out of them.
        _, w_uv = self.latent_matrices()
        return self._by_head(latent[..., : self.config.kv_lora_rank], w_uv, transpose=True)

    def _row_matrices(self, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """What makes a head's key [H, N + R, C + R] and value [H, V, C + R] out of a row [c,
        k_rope]: kv_b_proj with zeros for k_rope, below W_UK the identity that copies it.

        So keys come out of one matmul as attention wants them, and neither c nor k_rope is ever
        copied out of the rows. Made anew for each call: 24 MB at K2's size, for all layers 1.4 GB.
        """
        c, proj = self.config, self.kv_b_proj
        weight = proj.weight
        if isinstance(proj, QuantizedLinear):
            weight = proj.expanded(0, proj.shape[0])
        w = weight.astype(dtype).reshape(c.num_attention_heads, -1, c.kv_lora_rank)
        w = mx.pad(w, [(0, 0), (0, 0), (0, c.qk_rope_head_dim)])
        w_uk, w_uv = mx.split(w, [c.qk_nope_head_dim], axis=1)
        copy = mx.eye(c.qk_rope_head_dim, c.kv_lora_rank + c.qk_rope_head_dim, c.kv_lora_rank)
        copy = mx.broadcast_to(copy.astype(dtype), (w.shape[0], *copy.shape))
        return mx.concatenate([w_uk, copy], axis=1), w_uv

    def latent_matrices(self) -> tuple[list[mx.array], list[mx.array]]:
        """W_UK [H, N, C] and W_UV [H, V, C] out of kv_b_proj. Of a plain matrix they are views; of
        a quantised one, whose kernels would copy a view on every call, copies kept until it
        changes."""
        proj, nope = self.kv_b_proj, self.config.qk_nope_head_dim
        parts = proj.parts if isinstance(proj, QuantizedLinear) else [proj.weight]
        if self._split is not None and self._split[0] is proj.weight:
            return self._split[1:]
        by_head = [p.reshape(self.config.num_attention_heads, -1, p.shape[-1]) for p in parts]
        if len(parts) == 1:
            return [by_head[0][:, :nope]], [by_head[0][:, nope:]]
        uk = [mx.contiguous(p[:, :nope]) for p in by_head]
        uv = [mx.contiguous(p[:, nope:]) for p in by_head]
        self._split = (proj.weight, uk, uv)
        return uk, uv

    def _by_head(self, x: mx.array, w: list[mx.array], transpose: bool) -> mx.array:
        """x [B, H, L, I] times each head's own matrix."""
        if isinstance(self.kv_b_proj, QuantizedLinear):
            return quantized_matmul(x, w, self.kv_b_proj.spec, transpose)
        return x @ (w[0].swapaxes(-1, -2) if transpose else w[0])
