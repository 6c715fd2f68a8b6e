"""k2mlx check: a whole folder passes, and each kind of damage is found."""

import json
import shutil

import mlx.core as mx
import pytest

from k2mlx.errors import CheckpointError
from k2mlx.weights.check import check_weights
from k2mlx.weights.convert import Options, convert
from k2mlx.weights.load import load_model
from tests.weights.slices import official_slice, rewrite


def faults(folder, **options) -> list[str]:
    return [finding.note for finding in check_weights(folder, **options) if finding.ok is False]


@pytest.mark.parametrize("form", ["int4", "fp8", "bf16"])
def test_whole_folders_pass(tmp_path, form):
    folder = official_slice(tmp_path, form, 1)
    assert not faults(folder)
    for layout in ("k2mlx", "mlx"):
        out = convert(folder, tmp_path / layout, Options(layout=layout))
        assert not faults(out)
        assert {"hashes"} <= {f.what for f in check_weights(out) if f.ok}


def test_one_flipped_bit_is_found(tmp_path):
    out = convert(official_slice(tmp_path, "int4", 1), tmp_path / "out", Options())
    path = sorted(out.glob("*.safetensors"))[2]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "not what was written" in faults(out)[0]
    assert not faults(out, deep=False)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: a.update(_scaled(a, mx.nan)), "NaN or infinity"),
        (lambda a: a.update(_scaled(a, mx.inf)), "NaN or infinity"),
        (lambda a: a.pop(next(k for k in a if k.endswith("o_proj.weight"))), "index has it"),
        (lambda a: a.update({"model.extra": mx.zeros(3)}), "not part of this model"),
    ],
)
def test_damage_is_found(tmp_path, edit, message):
    folder = official_slice(tmp_path, "int4", 1)
    rewrite(sorted(folder.glob("*.safetensors"))[2], edit)
    assert message in faults(folder)[0]


def _scaled(arrays, factor):
    name = next(k for k in arrays if k.endswith("input_layernorm.weight"))
    return {name: arrays[name] * factor}


def test_a_config_that_claims_another_quantisation_is_found(tmp_path):
    out = convert(official_slice(tmp_path, "int4", 1), tmp_path / "out", Options())
    content = json.loads((out / "config.json").read_text())
    content["quantization"]["experts"] = {"bits": 4, "group_size": 32, "mode": "affine"}
    (out / "config.json").write_text(json.dumps(content))
    assert "config.json says" in faults(out, deep=False)[0]
    with pytest.raises(CheckpointError, match=r"config\.json says"):
        load_model(out, mx.float32)


@pytest.mark.parametrize("form", ["int4", "fp8", "bf16"])
@pytest.mark.parametrize("claimed", ["int4", "fp8", "bf16"])
def test_a_config_of_another_official_format_is_found(tmp_path, form, claimed):
    folder = official_slice(tmp_path, form, 1)
    (tmp_path / "other").mkdir()
    other = official_slice(tmp_path / "other", claimed, 1)
    shutil.copy(other / "config.json", folder / "config.json")
    assert bool(faults(folder, deep=False)) == (form != claimed)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "manifest.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, '{"files": ' + "9" * 5000 + "}"])
def test_json_that_python_cannot_hold_is_a_fault(tmp_path, name, content):
    folder = official_slice(tmp_path, "int4", 1)
    (folder / name).write_text(content)
    assert name in faults(folder)[0]


def test_a_manifest_with_an_infinite_size_is_none(tmp_path):
    folder = official_slice(tmp_path, "int4", 1)
    entry = {"size": float("inf"), "hash": "sha256:0"}
    (folder / "manifest.json").write_text(json.dumps({"files": {"config.json": entry}}))
    assert "not a manifest" in faults(folder)[0]


@pytest.mark.parametrize(("name", "kind"), [("../secret", "sha256"), ("config.json", "md5")])
def test_a_manifest_names_files_of_its_folder_alone(tmp_path, name, kind):
    """Whose hash would be told, or read whole into memory."""
    folder = official_slice(tmp_path, "int4", 1)
    (tmp_path / "secret").write_text("x")
    entry = {"size": (folder / name).stat().st_size, "hash": f"{kind}:0"}
    (folder / "manifest.json").write_text(json.dumps({"files": {name: entry}}))
    assert "no file's hash" in faults(folder)[0]
