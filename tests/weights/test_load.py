"""Model folders: written and read back, converted, and refused when anything is off."""

import json
import struct
from dataclasses import replace

import mlx.core as mx
import pytest

from k2mlx.config import Quantization, QuantSpec
from k2mlx.errors import CheckpointError
from k2mlx.model import Model
from k2mlx.weights import load
from tests.models import TINY, random_weights

INT4 = Quantization(
    experts=QuantSpec(4, 32, "symmetric"),
    rest=QuantSpec(8, 32),
    embed_tokens=QuantSpec(4, 32),
    lm_head=QuantSpec(4, 32),
)
WIDE = replace(
    TINY,
    moe_intermediate_size=32,
    intermediate_size=64,
    q_lora_rank=32,
    kv_lora_rank=32,
    v_head_dim=16,
)
TOKENS = mx.array([[1, 5, 9, 2]])


def quantised() -> tuple[Model, dict[str, mx.array]]:
    config = replace(WIDE, quantization=INT4, checkpoint_format="k2mlx")
    plain = Model(replace(config, quantization=None))
    plain.reset(0)
    weights = plain.named_parameters()
    model = Model(config)
    model.load_weights(list(load.quantize_weights(weights, config).items()))
    return model, weights


@pytest.fixture
def folder(tmp_path):
    model, _ = quantised()
    load.save_model(tmp_path, model)
    return tmp_path


def read(folder) -> Model:
    return load.load_model(folder, mx.float32)


def test_int4_is_written_without_biases_and_read_back(folder):
    model, _ = quantised()
    stored = mx.load(str(folder / "model.safetensors"))
    assert not [k for k in stored if ".experts." in k and k.endswith("biases")]
    assert stored["model.layers.1.mlp.experts.gate_up_proj.scales"].dtype == mx.bfloat16
    again = read(folder)
    wanted, got = model.named_parameters(), again.named_parameters()
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        if value.dtype == mx.uint32:
            assert mx.array_equal(got[name], value).item(), name
    name = "model.layers.2.mlp.experts.down_proj.scales"
    assert mx.array_equal(got[name], wanted[name].astype(mx.float32)).item()


def test_dequantised_and_quantised_models_agree_and_return(folder):
    model = read(folder)
    config = model.config
    wide = load.dequantize_weights(model.named_parameters(), config)
    plain = Model(replace(config, quantization=None))
    plain.load_weights(list(wide.items()))
    a, b = model(TOKENS), plain(TOKENS)
    assert mx.abs(a - b).max().item() <= 1e-5 * mx.abs(b).max().item()
    back = load.quantize_weights(wide, config)
    for name, value in model.named_parameters().items():
        if value.dtype == mx.uint32 and ".experts." in name:
            assert mx.array_equal(back[name], value).item(), name


def test_the_hugging_face_layout_is_read(tmp_path):
    weights = {k: mx.array(v) for k, v in random_weights(TINY, 1).items()}
    names = sorted(weights)
    for i, part in enumerate((names[::2], names[1::2])):
        mx.save_safetensors(str(tmp_path / f"model-{i}.safetensors"), {k: weights[k] for k in part})
    index = {k: f"model-{i}.safetensors" for i in (0, 1) for k in names[i::2]}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    model = read(tmp_path)
    gate_up = model.layers[1].mlp.experts.gate_up_proj.weight
    gate = weights["model.layers.1.mlp.experts.3.gate_proj.weight"]
    up = weights["model.layers.1.mlp.experts.3.up_proj.weight"]
    assert mx.array_equal(gate_up[3], mx.concatenate([gate, up])).item()


def rewrite(folder, change) -> None:
    path = folder / "model.safetensors"
    weights = dict(mx.load(str(path)))
    mx.eval(weights)
    change(weights)
    mx.save_safetensors(str(path), weights)


NAME = "model.layers.1.self_attn.o_proj.scales"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w: w.pop(NAME), f"{NAME}: missing"),
        (
            lambda w: w.update({NAME: w[NAME][:-1]}),
            f"{NAME}: got .*wanted .*belong together, fetch",
        ),
        (lambda w: w.update({NAME: mx.zeros(w[NAME].shape, mx.uint32)}), f"{NAME}: got U32"),
        (lambda w: w.update({NAME: mx.zeros(w[NAME].shape, mx.int8)}), f"{NAME}: got I8"),
        (
            lambda w: w.update({"model.extra": mx.zeros(1)}),
            "model.extra, which is not part of this model",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, damage, message):
    rewrite(folder, damage)
    with pytest.raises(CheckpointError, match=message):
        read(folder)


INDEX_FAULT = r"inside the folder|missing, and the index names it|wanted JSON with weight_map"


def header(content: dict, data: int, length: int | None = None) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        header({"a": F32}, 8, length=10**9),
        header({"a": F32}, 7),
        header({"a": F32, "b": F32}, 16),
        header({"a": F32 | {"data_offsets": [0, 4]}}, 8),
        header({"a": F32 | {"shape": [-2]}}, 8),
        header({"a": F32 | {"dtype": "PICKLE"}}, 8),
        header({"a": [1]}, 8),
        header({"a": F32 | {"shape": [2**62, 2**62]}}, 8),
        header({"a": F32 | {"data_offsets": [-8, 0]}}, 8),
        header({"a": F32 | {"data_offsets": [8, 16]}}, 8),
        header({}, 8).replace(b"{}", b'{"a": 1, "a": 2}').replace(b"\x02", b"\x10", 1),
        b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c\x07pickled\x94.",
        b"\x10\0\0\0\0\0\0\0not json at all!",
    ],
)
def test_damaged_files_are_refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"fetch it again|whole safetensors"):
        read(folder)


def test_any_cut_is_noticed(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for cut in [0, 5, 100, len(whole) // 2, len(whole) - 1]:
        (folder / "model.safetensors").write_bytes(whole[:cut])
        with pytest.raises(CheckpointError):
            read(folder)


def test_no_weights(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    with pytest.raises(CheckpointError, match="has no weights"):
        read(tmp_path)


@pytest.mark.parametrize(
    "name", ["../evil.safetensors", "gone.safetensors", "config.json", 5, None, [], ""]
)
def test_an_index_that_points_elsewhere(folder, name):
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match=INDEX_FAULT):
        read(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": 1}', '{"weight_map": []}', "\0"]
)
def test_an_index_that_is_none(folder, content):
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=INDEX_FAULT):
        read(folder)
