"""config.json: the official ones are read whole, and what is not a K2 is named and refused."""

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.config import ModelConfig, RopeScaling
from k2mlx.errors import CheckpointError, ConfigError
from k2mlx.home import find_model
from k2mlx.model import Model
from k2mlx.weights.names import checkpoint_tensors, count_active_parameters, count_parameters
from tests.models import TINY, random_config

OFFICIAL = ["kimi-k2-instruct", "kimi-k2-instruct-0905", "kimi-k2-thinking", "kimi-k2.5"]


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_configs(name):
    c = ModelConfig.load(find_model(name))
    assert (c.hidden_size, c.num_hidden_layers, c.vocab_size) == (7168, 61, 163840)
    assert (c.n_routed_experts, c.num_experts_per_tok, c.n_shared_experts) == (384, 8, 1)
    assert (c.num_attention_heads, c.q_lora_rank, c.kv_lora_rank) == (64, 1536, 512)
    assert (c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim) == (128, 64, 128)
    assert (c.intermediate_size, c.moe_intermediate_size, c.first_k_dense_replace) == (
        18432,
        2048,
        1,
    )
    assert (c.routed_scaling_factor, c.rope_theta, c.norm_topk_prob) == (2.827, 50000.0, True)
    assert c.rope_scaling is not None
    assert c.rope_scaling.beta_fast == (32 if name == "kimi-k2.5" else 1)
    assert c.rope_scaling.factor == (32 if name == "kimi-k2-instruct" else 64)
    assert c.max_position_embeddings == 4096 * c.rope_scaling.factor
    assert c.rms_norm_eps == (1e-6 if "instruct" in name else 1e-5)
    assert c.eos_token_id == ((163585,) if "instruct" in name else (163586,))
    assert c.checkpoint_format == ("fp8" if "instruct" in name else "int4")
    assert c.chat_format == name.removesuffix("-0905")


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_shapes_without_allocating(name):
    """Every tensor that k2-spec 1 and 2 list, and the totals; the MLX model is lazy and has the
    same."""
    config = ModelConfig.load(find_model(name))
    shapes = dict(checkpoint_tensors(config))
    layer = "model.layers.60."
    wanted = {
        "model.embed_tokens.weight": (163840, 7168),
        "lm_head.weight": (163840, 7168),
        "model.norm.weight": (7168,),
        f"{layer}input_layernorm.weight": (7168,),
        f"{layer}post_attention_layernorm.weight": (7168,),
        f"{layer}self_attn.q_a_proj.weight": (1536, 7168),
        f"{layer}self_attn.q_a_layernorm.weight": (1536,),
        f"{layer}self_attn.q_b_proj.weight": (12288, 1536),
        f"{layer}self_attn.kv_a_proj_with_mqa.weight": (576, 7168),
        f"{layer}self_attn.kv_a_layernorm.weight": (512,),
        f"{layer}self_attn.kv_b_proj.weight": (16384, 512),
        f"{layer}self_attn.o_proj.weight": (7168, 8192),
        f"{layer}mlp.gate.weight": (384, 7168),
        f"{layer}mlp.gate.e_score_correction_bias": (384,),
        f"{layer}mlp.experts.383.gate_proj.weight": (2048, 7168),
        f"{layer}mlp.experts.383.up_proj.weight": (2048, 7168),
        f"{layer}mlp.experts.383.down_proj.weight": (7168, 2048),
        f"{layer}mlp.shared_experts.gate_proj.weight": (2048, 7168),
        f"{layer}mlp.shared_experts.up_proj.weight": (2048, 7168),
        f"{layer}mlp.shared_experts.down_proj.weight": (7168, 2048),
        "model.layers.0.mlp.gate_proj.weight": (18432, 7168),
        "model.layers.0.mlp.down_proj.weight": (7168, 18432),
    }
    assert wanted.items() <= shapes.items()
    assert len(shapes) == 3 + 61 * 9 + 3 + 60 * (2 + 3 * 384 + 3)
    assert round(count_parameters(config) / 1e9, 2) == 1026.41
    assert round(count_active_parameters(config) / 1e9, 2) == 32.86
    lazy = Model(config).named_parameters()
    assert sum(value.size for value in lazy.values()) == count_parameters(config)


def test_every_field_survives_writing_and_reading():
    for seed in range(50):
        config = random_config(seed)
        again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
        for field in fields(ModelConfig):
            assert getattr(again, field.name) == getattr(config, field.name), field.name


def change(**values) -> dict:
    return TINY.to_dict() | values


YARN = {"type": "yarn", "factor": 4, "original_max_position_embeddings": 64, "beta_slow": 1}


@pytest.mark.parametrize(
    ("d", "message"),
    [
        (change(hidden_act="gelu"), "hidden_act: got 'gelu', wanted 'silu'"),
        (change(scoring_func="softmax"), "scoring_func: got 'softmax', wanted 'sigmoid'"),
        (change(n_group=8), "n_group: got 8, wanted 1"),
        (change(model_type="llama"), "model_type: got 'llama', wanted 'kimi_k2'"),
        (change(tie_word_embeddings=True), "tie_word_embeddings: got True, wanted False"),
        (change(attention_bias=True), "attention_bias: got True"),
        (change(num_key_value_heads=1), "num_key_value_heads: got 1, wanted 2"),
        (change(hidden_size="many"), "hidden_size: got 'many', wanted a whole number"),
        (change(hidden_size=True), "hidden_size: got True, wanted a whole number"),
        (change(hidden_size=-1), "hidden_size: got -1, wanted more than 0"),
        (change(num_hidden_layers=3_000_000), "num_hidden_layers: got 3000000, wanted at most"),
        (change(num_experts_per_tok=99), "num_experts_per_tok: got 99, wanted at most"),
        (change(qk_rope_head_dim=7), "qk_rope_head_dim: got 7, wanted an even number"),
        (change(rms_norm_eps=None), "rms_norm_eps: got None, wanted a number"),
        (change(chat_format="chatml"), "chat_format: got 'chatml', wanted one of"),
        (change(rope_scaling={"type": "linear"}), "rope_scaling.type: got 'linear'"),
        (change(rope_scaling=YARN), "rope_scaling.beta_fast: missing"),
        (change(rope_scaling=YARN | {"beta_fast": 1, "gamma": 2}), "rope_scaling.gamma: unknown"),
        (change(quantization_config={"quant_method": "awq"}), "quantisation is unknown"),
        (change(quantization={"heads": None}), "quantization.heads: unknown key"),
        (change(quantization={"rest": 4}), "quantization.rest: got 4"),
        (
            change(quantization={"rest": {"bits": 7, "group_size": 32}}),
            "quantization.rest.bits: got 7, wanted one of",
        ),
        (
            change(quantization={"experts": {"bits": 4, "group_size": 64, "mode": "symmetric"}}),
            "group_size: got 64",
        ),
        (
            change(quantization={"experts": {"bits": 4, "group_size": 32, "mode": "log"}}),
            "mode: got 'log'",
        ),
        ([1], r"config: got \[1\], wanted an object"),
    ],
)
def test_wrong_values_are_named(d, message):
    if isinstance(d, dict) and "quantization_config" in d:
        d.pop("checkpoint_format")
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(d)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
)
KEYS = [("quantization", "rest"), ("quantization", "rest", "bits"), ("rope_scaling", "factor")]


@given(st.sampled_from([*((key,) for key in change()), *KEYS]), JSON)
def test_any_value_at_any_key_is_read_or_refused(path, value):
    d = change(
        rope_scaling=YARN | {"beta_fast": 1}, quantization={"rest": {"bits": 4, "group_size": 32}}
    )
    *parents, last = path
    part = d
    for key in parents:
        part = part[key]
    part[last] = value
    try:
        config = ModelConfig.from_dict(d)
    except ConfigError:
        return
    json.dumps(config.to_dict(), allow_nan=False)


def test_a_missing_field_is_named():
    d = change()
    del d["kv_lora_rank"]
    with pytest.raises(ConfigError, match="kv_lora_rank: missing"):
        ModelConfig.from_dict(d)


def test_unknown_keys_are_reported():
    with pytest.warns(UserWarning, match="not used: sliding_window"):
        ModelConfig.from_dict(change(sliding_window=4))


def test_text_config_of_a_vision_model_is_found():
    assert ModelConfig.from_dict({"text_config": change(), "vision_config": {}}) == TINY


def test_missing_folder_and_bad_json(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        ModelConfig.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        ModelConfig.load(tmp_path)


def test_frozen():
    with pytest.raises(AttributeError):
        TINY.hidden_size = 3  # ty: ignore[invalid-assignment]
    assert replace(TINY, rope_scaling=RopeScaling(4, 64, 1, 1)) != TINY
