"""Bytes by part: against files written here, the arrays that MLX holds, and k2-spec 3.3."""

import json
import math
import struct
from dataclasses import replace

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx import cli
from k2mlx.config import ModelConfig, QuantSpec
from k2mlx.errors import CheckpointError
from k2mlx.home import bundled
from k2mlx.nn.quant import QuantizedMatrix
from k2mlx.plan import sizes
from k2mlx.plan.planner import Option, convert_command, make_plan, read_model
from k2mlx.plan.precision import PRECISIONS, resident_sizes
from k2mlx.plan.speed import prefill_flops, touched
from k2mlx.weights.convert import Options, convert
from k2mlx.weights.load import load_model
from k2mlx.weights.names import checkpoint_tensors, count_parameters
from k2mlx.weights.slice import write_slice
from tests.folders import folder_config, write_folder
from tests.models import random_config

GB = 1e9
WIDTHS = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "I32": 4}


def official(name):
    return ModelConfig.load(bundled("models") / name)


def as_written(config, name, shape):
    """How Moonshot's files hold a tensor, by k2-spec 3.1 and 3.2."""
    stem = name.removesuffix("weight")
    if name.endswith("correction_bias"):
        return {name: ("F32", shape)}
    matrix = len(shape) == 2 and "layers" in name and ".gate.weight" not in name
    if config.checkpoint_format == "fp8" and matrix:
        scales = [math.ceil(n / 128) for n in shape]
        return {name: ("F8_E4M3", shape), f"{name}_scale_inv": ("F32", scales)}
    if config.checkpoint_format == "int4" and ".experts." in name:
        rows, inputs = shape
        return {
            f"{stem}weight_packed": ("I32", [rows, inputs // 8]),
            f"{stem}weight_scale": ("BF16", [rows, inputs // 32]),
            f"{stem}weight_shape": ("I32", [2]),
        }
    return {name: ("BF16", shape)}


def write_files(folder, config, prefix="", extra=()):
    """A checkpoint of zeros in two files, with an index; returns its tensors' bytes."""
    tensors = dict(extra)
    for name, shape in checkpoint_tensors(config):
        tensors |= {prefix + k: v for k, v in as_written(config, name, shape).items()}
    files = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
    for number, (name, value) in enumerate(tensors.items()):
        files[list(files)[number % 2]][name] = value
    total = 0
    for file, part in files.items():
        header, end = {}, 0
        for name, (dtype, shape) in part.items():
            begin, end = end, end + math.prod(shape) * WIDTHS[dtype]
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        head = json.dumps(header).encode()
        (folder / file).write_bytes(struct.pack("<Q", len(head)) + head + bytes(end))
        total += (folder / file).stat().st_size - 8 - len(head)
    where = {name: file for file, part in files.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return total


# --- The official models --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("kimi-k2-thinking", 594.2),
        ("kimi-k2.5", 594.2),
        ("kimi-k2-instruct", 1029),
        ("kimi-k2-instruct-0905", 1029),
    ],
)
def test_official_totals_are_the_specs(name, total):
    found = sizes.stored_sizes(official(name)).total / GB
    assert found == pytest.approx(total, abs=0.05 if total < 1000 else 0.5)


def test_bfloat16_and_mlx_totals_are_the_specs():
    config = official("kimi-k2-thinking")
    plain = replace(config, checkpoint_format="bf16")
    assert sizes.stored_sizes(plain).total / GB == pytest.approx(2053, abs=0.5)
    kept = sizes.kept_sizes(config)
    # The spec's 657.6 GB: biases for symmetric experts, the router still in bfloat16.
    router = sizes.stored_sizes(config).part("router")
    assert (kept.total - router) / GB == pytest.approx(657.6, abs=0.05)
    moe = sizes.stored_sizes(config).layers[1]
    assert moe["routed experts"] / GB == pytest.approx(9.51, abs=0.005)
    assert moe["routed experts"] / 384 / 1e6 == pytest.approx(24.8, abs=0.05)


def test_decode_traffic_is_the_specs():
    config = official("kimi-k2-thinking")
    stored = sizes.stored_sizes(config)
    assert stored.token_reads(config) / GB == pytest.approx(33.0, abs=0.05)
    assert 819e9 / stored.token_reads(config) == pytest.approx(24.8, abs=0.05)
    assert stored.part("routed experts") * 8 / 384 / GB == pytest.approx(11.9, abs=0.05)


def test_cache_is_the_specs():
    config = official("kimi-k2-thinking")
    assert 61 * sizes.cache_bytes_per_layer(config, 1) == 70_272
    assert 61 * sizes.cache_bytes_per_layer(config, 131_072) / GB == pytest.approx(9.21, abs=0.005)


def test_a_chunk_of_one_touches_what_a_token_does_and_a_long_one_everything():
    config = official("kimi-k2-thinking")
    assert touched(config, 1) == pytest.approx(8 / 384)
    stored = sizes.stored_sizes(config)
    assert stored.layer_reads(config, touched(config, 1)) == stored.layer_reads(config)
    assert stored.layer_reads(config, 1.0) == stored.layer_bytes
    assert prefill_flops(config) / 2e9 == pytest.approx(31.69 - 1.174, abs=0.01)


# --- From headers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["bf16", "fp8", "int4"])
@pytest.mark.parametrize("prefix", ["", "language_model."])
def test_headers_say_what_the_files_hold_and_the_config_foretells_it(tmp_path, form, prefix):
    config = folder_config(checkpoint_format=form, quantization=None, hidden_size=160)
    total = write_files(tmp_path, config, prefix)
    tensors = sizes.folder_tensors(tmp_path)
    found = sizes.stored_sizes(config, tensors)
    assert found.total == total
    assert found == sizes.stored_sizes(config)
    assert found.part("other") == 0
    assert sizes.kept_sizes(config, tensors) == sizes.kept_sizes(config)


def test_what_only_sees_is_on_disk_and_not_in_memory(tmp_path):
    config = folder_config(checkpoint_format="bf16", quantization=None)
    extra = {"vision_tower.patch.weight": ("BF16", [64, 3])}
    total = write_files(tmp_path, config, "language_model.", extra)
    tensors = sizes.folder_tensors(tmp_path)
    assert sizes.stored_sizes(config, tensors).total == total
    assert sizes.stored_sizes(config, tensors).part("other") == 384
    kept = sizes.kept_sizes(config, tensors)
    assert kept == replace(sizes.kept_sizes(config), outside=kept.outside)
    assert kept.part("other") == 0


def held(folder):
    """Bytes of the model's arrays once it has run."""
    model = load_model(folder, mx.bfloat16)
    symmetric = [
        module.parts[2].nbytes
        for _, module in model.named_modules()
        if isinstance(module, QuantizedMatrix) and module.spec.mode == "symmetric"
    ]
    return sum(value.nbytes for value in model.named_parameters().values()) + sum(symmetric)


def check_folder(folder):
    """What the headers and the config say is what is there, and what loading makes of it."""
    config, tensors = ModelConfig.load(folder), sizes.folder_tensors(folder)
    assert sizes.stored_sizes(config, tensors) == sizes.stored_sizes(config)
    assert sizes.kept_sizes(config, tensors) == sizes.kept_sizes(config)
    assert sizes.kept_sizes(config, tensors).total == held(folder)


def small_config(folder):
    """A folder with a config.json of a K2 of some kilobytes, unquantised."""
    config = folder_config(checkpoint_format="bf16", quantization=None, moe_intermediate_size=96)
    content = config.to_dict()
    del content["checkpoint_format"]  # official configs say nothing of the kind
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("form", ["bf16", "fp8", "int4"])
def test_what_loading_an_official_layout_takes(tmp_path, form):
    config = small_config(tmp_path / "config")
    check_folder(write_slice(tmp_path / "slice", config, layers=2, form=form))


def test_what_loading_our_own_and_mlxs_layout_takes(tmp_path):
    folder = write_folder(tmp_path / "model")
    check_folder(folder)
    check_folder(convert(folder, tmp_path / "mlx", Options(layout="mlx")))


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda p: p.name)
def test_a_precision_takes_what_its_conversion_does(tmp_path, precision):
    """Written by the command that the plan names, and loaded."""
    config = small_config(tmp_path / "config")
    source = write_slice(tmp_path / "slice", config, layers=2, form="bf16")
    model = read_model(str(source), source)
    resident = resident_sizes(model.config, precision)
    command = convert_command(make_plan(model), Option(precision.name, resident))
    program, *args = command.replace(" OUT ", f" {tmp_path / 'out'} ").split()
    assert program == "k2mlx"
    assert cli.main(args) == 0
    assert held(tmp_path / "out") == resident.total


@given(st.integers(0, 500))
def test_nothing_is_counted_twice_or_left_out(seed):
    config = random_config(seed)
    stored = sizes.stored_sizes(replace(config, checkpoint_format="bf16", quantization=None))
    moe = max(0, config.num_hidden_layers - config.first_k_dense_replace)
    wider = 2 * config.n_routed_experts * moe  # the correction bias is float32
    assert stored.total == 2 * count_parameters(config) + wider
    assert stored.total == sum(stored.layer_bytes) + stored.embed_bytes + stored.head_bytes


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda p: p.name)
@pytest.mark.parametrize("inputs", [64, 192, 2048])
def test_a_matrix_takes_what_mlx_makes_of_it(precision, inputs):
    for spec in (precision.experts, precision.rest):
        if spec is None:
            assert sizes.matrix_bytes(8, inputs, None) == 16 * inputs
            continue
        zeros = mx.zeros((8, inputs), mx.bfloat16)
        parts = mx.quantize(zeros, group_size=spec.group_size, bits=spec.bits)
        assert sizes.matrix_bytes(8, inputs, spec) == sum(part.nbytes for part in parts)


def test_int4_in_memory_is_the_checkpoint_with_biases():
    """Two ways to the same: widened from what is stored, and computed from the shapes."""
    config = official("kimi-k2-thinking")
    named = {p.name: resident_sizes(config, p) for p in PRECISIONS}
    assert named["int4 + bf16"] == sizes.kept_sizes(config)
    assert named["bf16 + bf16"] == sizes.kept_sizes(replace(config, checkpoint_format="bf16"))
    assert named["q8 + q8"].part("norms") == named["bf16 + bf16"].part("norms")


# --- What is wrong with a folder ------------------------------------------------------------------


def test_a_layer_that_the_config_does_not_have(tmp_path):
    config = folder_config(checkpoint_format="bf16", quantization=None)
    write_files(tmp_path, config)
    tensors = sizes.folder_tensors(tmp_path)
    with pytest.raises(CheckpointError, match="got a layer 2, wanted 0 to 1"):
        sizes.stored_sizes(replace(config, num_hidden_layers=2), tensors)
    with pytest.raises(CheckpointError, match="layer 3: no tensors"):
        sizes.stored_sizes(replace(config, num_hidden_layers=4), tensors)


def test_a_shard_that_is_missing_or_cut_off(tmp_path):
    config = folder_config(checkpoint_format="bf16", quantization=None)
    write_files(tmp_path, config)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cut off"):
        sizes.folder_tensors(tmp_path)
    shard.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        sizes.folder_tensors(tmp_path)


def test_a_folder_without_weights_has_none(tmp_path):
    assert sizes.folder_tensors(tmp_path) is None


def test_a_spec_that_mlx_lacks_is_no_precision():
    for precision in PRECISIONS:
        for spec in (precision.experts, precision.rest):
            if spec is not None:
                parts = {"bits": spec.bits, "group_size": spec.group_size, "mode": spec.mode}
                assert QuantSpec.from_dict(parts, "") == spec


def test_fp8_that_is_no_matrix_is_counted_as_it_is():
    assert sizes.kept_bytes("model.layers.0.self_attn.o_proj.weight", "F8_E4M3", (4,), set()) == 4
