import dataclasses
import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from k2mlx import doctor
from k2mlx.cli import main
from k2mlx.config import ModelConfig
from k2mlx.errors import CheckpointError
from k2mlx.home import find_model
from k2mlx.load import load
from k2mlx.model import Model
from k2mlx.weights.load import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random model of k2-nano's kind, with its golden logits."""
    path = tmp_path_factory.mktemp("model")
    nano = find_model("models/k2-nano")
    config = json.loads((nano / "config.json").read_text())
    config |= {"num_hidden_layers": 2, "n_routed_experts": 16, "hidden_size": 64}
    mx.random.seed(1)
    model = Model(dataclasses.replace(ModelConfig.from_dict(config), quantization=None))
    save_model(path, model)
    shutil.copy(nano / "tokenizer.model", path)
    doctor.write_golden(load(path, mx.float32))
    return path


# --- The quantised gather ------------------------------------------------------------------------


def test_the_sizes_reach_the_known_faults():
    sizes = list(doctor.gather_sizes())
    assert {inner for inner, _, _ in sizes} >= {32, 64, 96, 256, 288}
    assert {in_order for _, _, in_order in sizes} == {True, False}
    assert any(rows > 32768 and rows % 64 for _, rows, _ in sizes)
    assert any(inner % 64 for inner, _, _ in sizes)


def test_this_machines_gather_is_right():
    for check in doctor.check_kernels():
        assert check.ok, check
        assert check.error is not None
        assert check.error < 1e-5


def drops_the_tail(x, experts, chosen, in_order):
    """mlx issue 3887: inner values past the last multiple of 64 are not added."""
    whole = x.shape[1] // 64 * 64
    return doctor.gather(mx.where(mx.arange(x.shape[1]) < whole, x, 0), experts, chosen, in_order)


def forgets_late_rows(x, experts, chosen, in_order):
    """mlx issue 3856: the last rows, a part of 64, are not computed when there are many."""
    out = doctor.gather(x, experts, chosen, in_order)
    whole = x.shape[0] // 64 * 64 if x.shape[0] > 32768 else x.shape[0]
    return mx.where(mx.arange(x.shape[0])[:, None] < whole, out, 0)


def gives_nothing(x, experts, chosen, in_order):
    return doctor.gather(x, experts, chosen, in_order) * mx.nan


@pytest.mark.parametrize("fault", [drops_the_tail, forgets_late_rows, gives_nothing])
def test_the_canary_notices_what_has_gone_wrong_on_other_chips(fault):
    checks = [doctor.check_gather(*size, mx.float32, fault) for size in doctor.gather_sizes()]
    assert not all(check.ok for check in checks)


def test_the_experts_are_what_mlx_takes_them_for():
    experts = doctor.make_experts(96, mx.float32, np.random.default_rng(0))
    dense = mx.dequantize(
        experts.weight, experts.scales, experts.biases, group_size=doctor.GROUP, bits=4
    )
    assert np.array_equal(np.array(dense), experts.dense)


# --- Golden logits -------------------------------------------------------------------------------


def test_golden_logits_are_reproduced(folder):
    checks = doctor.check_golden(load(folder, mx.float32))
    assert [check.name for check in checks] == [
        "golden 9 tokens prefill float32",
        "golden 9 tokens decode float32",
        "golden 150 tokens prefill float32",
        "golden 150 tokens decode float32",
    ]
    assert all(check.ok for check in checks), checks


def test_a_device_that_computes_otherwise_is_noticed(folder):
    loaded = load(folder, mx.float32)
    norm = loaded.model.model.norm
    norm.weight = norm.weight * 1.001
    checks = doctor.check_golden(loaded)
    assert not any(check.ok for check in checks)
    assert checks[0].error == pytest.approx(1e-3, rel=0.1)


def test_other_weights_are_told_from_a_wrong_device(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    loaded = load(tmp_path / "other", mx.float32)
    loaded.model.model.norm.weight = loaded.model.model.norm.weight * 2
    save_model(tmp_path / "other", loaded.model)
    (check,) = doctor.check_golden(loaded)
    assert not check.ok
    assert "made from other weights" in check.note


def test_missing_golden_logits_are_said(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "none")
    (tmp_path / "none" / "golden.json").unlink()
    (check,) = doctor.check_golden(load(tmp_path / "none", mx.float32))
    assert not check.ok
    assert "golden.json is missing" in check.note


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weights_sha256": "", "cases": [{}]}'])
def test_damaged_golden_logits_are_said(folder, tmp_path, text):
    shutil.copytree(folder, tmp_path / "bad")
    (tmp_path / "bad" / "golden.json").write_text(text)
    with pytest.raises(CheckpointError, match="not golden logits"):
        doctor.check_golden(load(tmp_path / "bad", mx.float32))


# --- The command ---------------------------------------------------------------------------------


def test_the_report_is_one_json_object(folder, capsys):
    assert main(["doctor", "--model", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["ok"] is True
    assert {"k2mlx", "mlx", "python", "os", "chip", "device", "memory_limit", "blas"} <= set(
        report["machine"]
    )
    assert all(check["error"] <= check["limit"] for check in report["checks"])
    assert "this machine computes right" in err


def test_what_is_wrong_exits_1(folder, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "TOLERANCE", {("cpu", "float32"): -1.0})
    assert main(["doctor", "--model", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "WRONG golden 9 tokens prefill float32" in out
    assert "4 of 16 checks failed" in out


def test_golden_logits_are_written_beside_the_model(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "new")
    (tmp_path / "new" / "golden.json").unlink()
    assert main(["doctor", "--model", str(tmp_path / "new"), "--write-golden"]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'new' / 'golden.json'}\n"
    assert (tmp_path / "new" / "golden.json").read_text() == (folder / "golden.json").read_text()


def test_a_missing_model_is_one_line(capsys):
    assert main(["doctor", "--model", "nowhere"]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err


def test_this_machine_agrees_with_the_one_that_stored_k2_nanos_logits(capsys):
    assert main(["doctor"]) == 0, capsys.readouterr().out
