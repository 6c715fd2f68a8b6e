"""The same random weights through other people's DeepSeek-V3: mlx-lm's, and transformers' on
torch."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest

from tests.models import build, random_config, random_weights
from tests.reference import k2
from tests.test_model import draw, relative

SEEDS = range(50, 62)


def as_released(seed: int):
    """A random config with what all releases share: where the others' code is only right for
    that."""
    config = random_config(seed)
    scaling = config.rope_scaling
    return dataclasses.replace(
        config,
        norm_topk_prob=True,
        num_experts_per_tok=max(2, config.num_experts_per_tok),
        rope_scaling=scaling and dataclasses.replace(scaling, mscale=1.0, mscale_all_dim=1.0),
    )


def official(config) -> dict:
    """The config.json of these sizes, as the official checkpoints write it."""
    d = config.to_dict() | {"model_type": "deepseek_v3", "eos_token_id": 4}
    return {k: v for k, v in d.items() if k not in ("checkpoint_format", "chat_format")}


def test_logits_equal_mlx_lm():
    from mlx_lm.models import deepseek_v3

    for seed in SEEDS:
        config, weights, tokens, _, _ = draw(seed, as_released)
        peer = deepseek_v3.Model(deepseek_v3.ModelArgs.from_dict(official(config)))
        arrays = {name: mx.array(value) for name, value in weights.items()}
        peer.load_weights(list(peer.sanitize(arrays).items()))
        ids = mx.array(tokens[None])
        assert relative(build(config, weights)(ids), peer(ids)) <= 1e-4, (seed, config)


@pytest.mark.torch
def test_logits_equal_transformers():
    torch = pytest.importorskip("torch")
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    for seed in SEEDS:
        config, weights, tokens, wanted, _ = draw(seed, as_released)
        d = official(config)
        settings = DeepseekV3Config(
            **d, experts_implementation="eager"
        )  # grouped_mm has no float64
        peer = DeepseekV3ForCausalLM(settings).to(torch.float64).eval()
        peer.load_state_dict(_transformers_names(config, weights), strict=True)
        with torch.no_grad():
            theirs = peer(torch.tensor(tokens[None])).logits.numpy()[0]
        assert relative(theirs, wanted) <= 1e-4, ("reference", seed, config)
        ours = build(config, weights)(mx.array(tokens[None]))[0]
        assert relative(ours, theirs) <= 1e-4, (seed, config)


def _transformers_names(config, weights):
    """transformers 5 stacks the experts too: gate_up_proj [E, 2I, H] and down_proj [E, H, I]."""
    import torch

    state = {k: torch.tensor(v, dtype=torch.float64) for k, v in weights.items()}
    for layer in range(config.first_k_dense_replace, config.num_hidden_layers):
        prefix = f"model.layers.{layer}.mlp.experts"
        gate, up, down = (
            torch.stack(
                [state.pop(f"{prefix}.{e}.{m}.weight") for e in range(config.n_routed_experts)]
            )
            for m in ("gate_proj", "up_proj", "down_proj")
        )
        state[f"{prefix}.gate_up_proj"] = torch.cat([gate, up], dim=1)
        state[f"{prefix}.down_proj"] = down
    return state


def test_the_reference_has_no_defaults_of_its_own():
    """A config field that the reference ignored would leave its logits unchanged."""
    config, weights, tokens, logits, _ = draw(3)
    wide = {k: v.astype(np.float64) for k, v in weights.items()}
    changes = {
        "rms_norm_eps": 0.1,
        "rope_theta": 100.0,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": not config.norm_topk_prob,
        "num_experts_per_tok": config.num_experts_per_tok + 1,
    }
    for field, value in changes.items():
        other, _ = k2.forward(dataclasses.replace(config, **{field: value}), wide, tokens)
        assert relative(other, logits) > 1e-4, field
    assert random_weights(config, 1).keys() == weights.keys()
