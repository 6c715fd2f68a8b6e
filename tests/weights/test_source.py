"""Every layout that K2 comes in, against decoders written from the formats' definitions."""

import json
import logging
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from k2mlx.config import ModelConfig, QuantSpec
from k2mlx.errors import CheckpointError, ConfigError
from k2mlx.model import Model
from k2mlx.weights import matrix
from k2mlx.weights.load import load_model
from k2mlx.weights.source import Source
from tests.folders import folder_config
from tests.models import random_weights, stack_experts
from tests.reference import k2
from tests.reference.official import E4M3, Official, to_bfloat16, to_k2_grid
from tests.test_model import relative
from tests.weights.slices import grouped_config, official_slice, rewrite, tokens

SEEDS = range(6)
NEAR_TIE = 1e-5


def matrices(config: ModelConfig) -> dict[str, list[list[str]]]:
    """Module path -> for each expert, or once, the official names of its rows."""
    out = {}
    for name in Model(replace(config, quantization=None)).named_parameters():
        prefix, found, kind = name.partition(".mlp.experts.")
        if found:
            parts = ("gate_proj", "up_proj") if "gate_up" in kind else ("down_proj",)
            out[name] = [
                [f"{prefix}.mlp.experts.{e}.{part}.weight" for part in parts]
                for e in range(config.n_routed_experts)
            ]
        else:
            out[name] = [[name]]
    return out


@pytest.mark.parametrize("form", ["int4", "bf16"])
@pytest.mark.parametrize("seed", SEEDS)
def test_logits_are_those_of_the_official_bytes(tmp_path, form, seed):
    folder = official_slice(tmp_path, form, seed)
    model = load_model(folder, mx.float32)
    ids = tokens(model.config)
    wanted, margin = k2.forward(model.config, Official(folder), ids)
    if margin < NEAR_TIE:
        pytest.skip("a near tie of the router")
    assert relative(model(mx.array(ids[None])), wanted[None]) <= 1e-4


@pytest.mark.parametrize("seed", SEEDS)
def test_fp8_is_kept_as_its_values_rounded_to_k2s_grid_and_eight_bits(tmp_path, seed):
    folder = official_slice(tmp_path, "fp8", seed)
    config, official = ModelConfig.load(folder), Official(folder)
    source = Source(folder, config)
    for name, experts in matrices(config).items():
        path = name.removesuffix(".weight")
        if path not in source.specs():
            continue
        wanted = np.stack([np.concatenate([official[n] for n in names]) for names in experts])
        spec = source.specs()[path]
        if ".mlp.experts." in path:
            assert spec == QuantSpec(4, 32, "symmetric")
            wanted = to_k2_grid(wanted)
        got = _values(source.matrix(path, spec), spec)
        # Half a step of 8 bits, and the value's, scale's and bias's rounding to bfloat16.
        affine = np.abs(wanted).max() * (1 / 255 + 2 / 512 + 2 / 512)
        limit = 0 if spec is None or spec.mode == "symmetric" else affine
        assert np.abs(got.reshape(wanted.shape) - wanted).max() <= limit, path


def test_fp8_decodes_every_byte_and_ragged_blocks(tmp_path):
    """576 rows, as kv_a_proj_with_mqa has at K2's size: 5 rows of scales, the last half used."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (576, 256)).astype(np.uint8)
    codes[:2, :] = np.arange(256)
    codes[(codes & 127) == 127] = 0
    scales = rng.uniform(1e-4, 1, (5, 2)).astype(np.float32)
    got = np.array(matrix._from_fp8(mx.array(codes), mx.array(scales)))
    wanted = E4M3[codes] * np.repeat(np.repeat(scales, 128, 0)[:576], 128, 1)
    assert np.abs(got - wanted).max() <= 1e-6 * np.abs(wanted).max()
    assert (got[576 - 64 :] == wanted[576 - 64 :].astype(np.float32)).all()


def _values(parts: dict[str, mx.array], spec: QuantSpec | None) -> np.ndarray:
    parts = {k: v if k == "weight" else v.astype(mx.float32) for k, v in parts.items()}
    if spec is None:
        return np.array(parts["weight"].astype(mx.float32), np.float64)
    biases = parts.get("biases", parts["scales"] * -8)
    w = mx.dequantize(parts["weight"], parts["scales"], biases, spec.group_size, spec.bits)
    return np.array(w, np.float64)


def test_int4_codes_and_scales_are_copied_bit_for_bit(tmp_path):
    folder = official_slice(tmp_path, "int4", 3)
    source, official = Source(folder, ModelConfig.load(folder)), Official(folder)
    path = "model.layers.1.mlp.experts.gate_up_proj"
    parts = source.matrix(path, source.specs()[path])
    half = parts["weight"].shape[1] // 2
    for expert in (0, source.config.n_routed_experts - 1):
        stem = f"model.layers.1.mlp.experts.{expert}"
        gate = official.raw(f"{stem}.gate_proj.weight_packed").view(np.uint32)
        up = official.raw(f"{stem}.up_proj.weight_scale")
        assert (np.array(parts["weight"][expert, :half]) == gate).all()
        assert (np.array(parts["scales"][expert, half:].astype(mx.float32)) == up).all()
    assert parts["scales"].dtype == mx.bfloat16


@pytest.mark.parametrize("form", ["int4", "fp8"])
def test_small_pieces_give_the_same(tmp_path, form, monkeypatch):
    """At K2's width a matrix is decoded in pieces."""
    folder = official_slice(tmp_path, form, 4, config=replace(grouped_config(4), hidden_size=160))
    source = Source(folder, ModelConfig.load(folder))
    path, spec = "model.layers.1.self_attn.q_b_proj", QuantSpec(8, 32)
    whole = source.matrix(path, spec)
    monkeypatch.setattr(matrix, "CHUNK", 1)
    pieces = source.matrix(path, spec)
    assert all(mx.array_equal(whole[kind], pieces[kind]).item() for kind in whole)


def mlx_folder(folder, seed: int, cut: bool, halves_differ: bool = False):
    """A checkpoint as mlx-lm writes it, each matrix in a form drawn at random; returns the model
    that it should be, in floating point. halves_differ: an expert's gate has another form than its
    up, which is the one that the config names for all."""
    rng = np.random.default_rng(seed)
    config = folder_config(quantization=None, checkpoint_format="bf16")
    values = {k: mx.array(v) for k, v in random_weights(config, seed).items()}
    values = {k: v.astype(mx.bfloat16) for k, v in stack_experts(values, config).items()}
    stored, said, exact = {}, {"group_size": 64, "bits": 4}, {}

    def put(name: str, value: mx.array, bits: int, group: int) -> mx.array:
        if not bits:
            stored[f"{name}.weight"], said[name] = value, False
            return value
        parts = mx.quantize(value, group_size=group, bits=bits)
        for kind, part in zip(("weight", "scales", "biases"), parts, strict=True):
            stored[f"{name}.{kind}"] = part
        said[name] = {"group_size": group, "bits": bits}
        wide = [parts[0], *(part.astype(mx.float32) for part in parts[1:])]
        return mx.dequantize(*wide, group_size=group, bits=bits)

    for name, value in values.items():
        path = name.removesuffix(".weight")
        bits, group = int(rng.choice([0, 3, 4, 5, 6, 8])), int(rng.choice([32, 64]))
        group = group if value.shape[-1] % group == 0 else 32
        if value.ndim < 2 or ".gate." in name:
            stored[name] = exact[name] = value
        elif path.endswith("experts.gate_up_proj"):
            stem = path.replace("mlp.experts.gate_up_proj", "mlp.switch_mlp")
            gate, up = mx.split(value, 2, axis=1)
            forms = ((3, 32), (4, 64)) if halves_differ else ((bits, group),) * 2
            wide = [
                put(f"{stem}.gate_proj", gate, *forms[0]),
                put(f"{stem}.up_proj", up, *forms[1]),
            ]
            if halves_differ:
                del said[f"{stem}.up_proj"]
            exact[name] = mx.concatenate(wide, axis=1)
        elif path.endswith("experts.down_proj"):
            theirs = path.replace("mlp.experts", "mlp.switch_mlp")
            exact[name] = put(theirs, value, bits, group)
        elif cut and path.endswith("kv_b_proj"):
            heads = value.reshape(config.num_attention_heads, -1, value.shape[-1])
            keys, vals = mx.split(heads, [config.qk_nope_head_dim], axis=1)
            stem = path.removesuffix("kv_b_proj")
            keys = put(f"{stem}embed_q", keys.swapaxes(1, 2), bits, 32).swapaxes(1, 2)
            vals = put(f"{stem}unembed_out", vals, bits, 32)
            exact[name] = mx.concatenate([keys, vals], axis=1).reshape(value.shape)
        else:
            exact[name] = put(path, value, bits, group)
    mx.save_safetensors(str(folder / "model.safetensors"), stored, metadata={"format": "mlx"})
    content = {k: v for k, v in config.to_dict().items() if k != "checkpoint_format"}
    content |= {"quantization": said, "quantization_config": said}
    (folder / "config.json").write_text(json.dumps(content))
    model = Model(config)
    model.load_weights([(k, v.astype(mx.float32)) for k, v in exact.items()])
    return model


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_mlx_affine_mixed_by_matrix(tmp_path, seed, cut):
    wanted = mlx_folder(tmp_path, seed, cut)
    # What mlx-lm cuts by head is quantised again along another side when it is loaded: there the
    # decoded values are compared.
    got = load_exact(tmp_path) if cut else load_model(tmp_path, mx.float32)
    ids = mx.array(tokens(got.config)[None])
    assert relative(got(ids), wanted(ids)) <= 1e-4
    assert mx.isfinite(load_model(tmp_path, mx.float32)(ids)).all().item()


def test_gate_and_up_of_different_precision(tmp_path):
    """They become one matrix, in the finer form of the two; the config's own words agree."""
    wanted = mlx_folder(tmp_path, 1, cut=False, halves_differ=True)
    source = Source(tmp_path, ModelConfig.load(tmp_path))
    stacks = {k: v for k, v in source.specs().items() if k.endswith("experts.gate_up_proj")}
    assert stacks and set(stacks.values()) == {QuantSpec(4, 64)}
    ids = mx.array(tokens(source.config)[None])
    assert relative(load_exact(tmp_path)(ids), wanted(ids)) <= 1e-4
    assert mx.isfinite(load_model(tmp_path, mx.float32)(ids)).all().item()


def load_exact(folder) -> Model:
    """Every matrix in float32 as it decodes."""
    source = Source(folder, ModelConfig.load(folder))
    model = Model(replace(source.config, quantization=None))
    for path, blocks in source._blocks.items():
        value = mx.concatenate([b.read().astype(mx.float32) for bs in blocks for b in bs])
        if ".mlp.experts." in path:
            value = value.reshape(len(blocks), -1, value.shape[-1])
        model.load_weights([(f"{path}.weight", value)], strict=False)
    for name in source.plain_names():
        plain = source.plain(name).astype(mx.float32)
        model.load_weights([(name, plain)], strict=False)
    return model


def test_k25_stands_under_a_prefix_beside_vision_tensors(tmp_path, caplog):
    folder = official_slice(tmp_path, "int4", 1)
    plain = load_model(folder, mx.float32)
    ids = mx.array(tokens(plain.config)[None])
    wanted = plain(ids)

    def prefix(arrays):
        for name in list(arrays):
            arrays[f"language_model.{name}"] = arrays.pop(name)
        arrays["vision_tower.blocks.0.weight"] = mx.ones((4, 4))
        arrays["mm_projector.proj.0.weight"] = mx.ones((2, 4))

    for path in folder.glob("*.safetensors"):
        rewrite(path, prefix)
        break  # one file with the prefix, the others without: names decide, file by file
    (folder / "model.safetensors.index.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    content = {"model_type": "kimi_k25", "text_config": config, "vision_config": {}}
    (folder / "config.json").write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        got = load_model(folder, mx.float32)
    assert mx.array_equal(got(ids), wanted).item()
    assert "vision_tower" in caplog.text and "mm_projector" in caplog.text


@pytest.mark.parametrize(
    ("form", "name", "change", "message"),
    [
        ("int4", "experts.3.up_proj.weight_scale", lambda a: a * mx.nan, "NaN or infinity"),
        ("fp8", "experts.3.up_proj.weight_scale_inv", lambda a: a / 0, "NaN or infinity"),
        ("int4", "experts.3.up_proj.weight_shape", lambda a: a + 1, r"weight_shape: got \["),
        ("int4", "experts.3.up_proj.weight_packed", lambda a: a[:-1], "weight_packed: got"),
        ("fp8", "q_a_proj.weight_scale_inv", lambda a: a[:, :0], "weight_scale_inv: got"),
        ("bf16", "q_a_proj.weight", lambda a: a.astype(mx.int32), "got I32"),
        ("bf16", "mlp.gate.weight", lambda a: None, "missing"),
        ("bf16", "q_a_proj.weight", lambda a: a * mx.nan, "q_a_proj.weight holds NaN"),
        ("bf16", "q_a_layernorm.weight", lambda a: a / 0, "q_a_layernorm.weight holds NaN"),
    ],
)
def test_official_tensors_that_do_not_fit_are_named(tmp_path, form, name, change, message):
    folder = official_slice(tmp_path, form, 2)
    path = sorted(folder.glob("*.safetensors"))[2]  # layer 1, with experts

    def edit(arrays):
        full = next(key for key in arrays if key.endswith(name))
        value = change(arrays.pop(full))
        if value is not None:
            arrays[full] = value

    (folder / "model.safetensors.index.json").unlink()
    if form == "fp8":
        pytest.importorskip("mlx.core")
        _edit_fp8(path, name, change)
    else:
        rewrite(path, edit)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder, mx.float32)


def test_a_number_of_scales_that_no_matrix_has_is_named(tmp_path):
    folder = official_slice(tmp_path, "bf16", 2)
    (folder / "model.safetensors.index.json").unlink()

    def edit(arrays):
        name = next(k for k in arrays if k.endswith("o_proj.weight"))
        arrays[name] = mx.zeros((), mx.uint32)
        arrays[name.replace("weight", "scales")] = mx.zeros((), mx.bfloat16)

    rewrite(sorted(folder.glob("*.safetensors"))[1], edit)
    with pytest.raises(CheckpointError, match=r"o_proj\.weight: got U32 \[\], wanted U32"):
        load_model(folder, mx.float32)


def test_a_tensor_with_and_without_the_prefix_is_there_twice(tmp_path):
    folder = official_slice(tmp_path, "bf16", 2)
    (folder / "model.safetensors.index.json").unlink()
    path = sorted(folder.glob("*.safetensors"))[1]
    name = next(k for k in mx.load(str(path)) if k.endswith("o_proj.weight"))
    rewrite(path, lambda a: a.update({f"language_model.{name}": a[name] * 2}))
    with pytest.raises(CheckpointError, match="is there as language_model"):
        load_model(folder, mx.float32)


def _edit_fp8(path, name, change) -> None:
    """MLX does not write fp8: the header is edited by hand."""
    from k2mlx.weights.files import read_header
    from k2mlx.weights.write import Planned, write_safetensors

    planned, values = [], []
    for full, stored in read_header(path).items():
        value = stored.read()
        if full.endswith(name):
            value = change(value)
        mx.eval(value)
        planned.append(Planned(full, stored.dtype, tuple(value.shape)))
        values.append(value)
    write_safetensors(path, planned, values)


def test_a_mode_of_mlx_without_biases_is_refused(tmp_path):
    mlx_folder(tmp_path, 2, cut=False)
    path = tmp_path / "model.safetensors"
    name = next(k for k in mx.load(str(path)) if k.endswith("o_proj.biases"))
    rewrite(path, lambda arrays: arrays.pop(name))
    with pytest.raises(CheckpointError, match="no biases"):
        load_model(tmp_path, mx.float32)
    content = json.loads((tmp_path / "config.json").read_text())
    content["quantization"]["mode"] = "mxfp4"
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="mode: got 'mxfp4'"):
        load_model(tmp_path, mx.float32)


def test_bfloat16_rounding_of_the_reference():
    value = np.random.default_rng(0).standard_normal(10_000)
    wanted = mx.array(value.astype(np.float32)).astype(mx.bfloat16).astype(mx.float32)
    assert (to_bfloat16(value) == np.array(wanted)).all()
