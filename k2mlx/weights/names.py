"""The tensors of an official K2 checkpoint: every name and shape, and what they add up to.

The module tree uses the same names but for the experts: the checkpoint has three matrices an
expert, `mlp.experts.E.{gate,up,down}_proj`, the model one stack `mlp.experts.gate_up_proj`
[experts, 2 width, hidden] (an expert's gate rows, then its up rows) and one stack
`mlp.experts.down_proj`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..config import ModelConfig

Shape = tuple[int, ...]


def layer_tensors(config: ModelConfig, index: int) -> Iterator[tuple[str, Shape]]:
    """Names (below `model.layers.INDEX.`) and shapes [out, in] of one layer, unquantised."""
    c, hidden = config, config.hidden_size
    heads = c.num_attention_heads
    yield "input_layernorm.weight", (hidden,)
    yield "self_attn.q_a_proj.weight", (c.q_lora_rank, hidden)
    yield "self_attn.q_a_layernorm.weight", (c.q_lora_rank,)
    yield "self_attn.q_b_proj.weight", (heads * c.qk_head_dim, c.q_lora_rank)
    yield "self_attn.kv_a_proj_with_mqa.weight", (c.kv_lora_rank + c.qk_rope_head_dim, hidden)
    yield "self_attn.kv_a_layernorm.weight", (c.kv_lora_rank,)
    kv_rows = heads * (c.qk_nope_head_dim + c.v_head_dim)
    yield "self_attn.kv_b_proj.weight", (kv_rows, c.kv_lora_rank)
    yield "self_attn.o_proj.weight", (hidden, heads * c.v_head_dim)
    yield "post_attention_layernorm.weight", (hidden,)
    if c.is_dense(index):
        yield from _mlp("mlp", hidden, c.intermediate_size)
        return
    yield "mlp.gate.weight", (c.n_routed_experts, hidden)
    yield "mlp.gate.e_score_correction_bias", (c.n_routed_experts,)
    for expert in range(c.n_routed_experts):
        yield from _mlp(f"mlp.experts.{expert}", hidden, c.moe_intermediate_size)
    shared = c.moe_intermediate_size * c.n_shared_experts
    yield from _mlp("mlp.shared_experts", hidden, shared)


def _mlp(prefix: str, hidden: int, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}.gate_proj.weight", (width, hidden)
    yield f"{prefix}.up_proj.weight", (width, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, width)


def checkpoint_tensors(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    """Every tensor of the checkpoint in bfloat16 layout: name, shape."""
    yield "model.embed_tokens.weight", (config.vocab_size, config.hidden_size)
    for index in range(config.num_hidden_layers):
        for name, shape in layer_tensors(config, index):
            yield f"model.layers.{index}.{name}", shape
    yield "model.norm.weight", (config.hidden_size,)
    yield "lm_head.weight", (config.vocab_size, config.hidden_size)


def is_held(name: str, held: range, layers: int) -> bool:
    """Whether a tensor of the checkpoint or of the module tree belongs to these layers, of so many:
    the embedding comes with the first, final norm and head with the last."""
    prefix, found, rest = name.partition("model.layers.")
    if found and not prefix:
        number = rest.partition(".")[0]
        return number.isdecimal() and int(number) in held
    return (0 if name.startswith("model.embed_tokens.") else layers - 1) in held


def module_tensors(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    """Every parameter of the module tree, unquantised: name, shape; experts stacked [E, O, I]."""
    hidden, width = config.hidden_size, config.moe_intermediate_size
    experts = config.n_routed_experts
    for name, shape in checkpoint_tensors(config):
        prefix, found, kind = name.partition(".mlp.experts.")
        if not found:
            yield name, shape
        elif kind == "0.gate_proj.weight":  # once a layer
            yield f"{prefix}.mlp.experts.gate_up_proj.weight", (experts, 2 * width, hidden)
            yield f"{prefix}.mlp.experts.down_proj.weight", (experts, hidden, width)


def count_parameters(config: ModelConfig) -> int:
    """All parameters: 1,026.41 billion for the official K2."""
    return sum(math.prod(shape) for _, shape in checkpoint_tensors(config))


def count_active_parameters(config: ModelConfig) -> int:
    """Parameters that one token uses, embedding and head included: 32.86 billion for the official
    K2."""
    one_expert = 3 * config.hidden_size * config.moe_intermediate_size
    moe_layers = config.num_hidden_layers - config.first_k_dense_replace
    idle = (config.n_routed_experts - config.num_experts_per_tok) * one_expert
    return count_parameters(config) - moe_layers * idle
