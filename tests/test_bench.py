"""The bench: our weights in mlx-lm are ours, rounds alternate, ratios point the right way."""

import json
import math
from typing import ClassVar

import mlx.core as mx
import numpy as np
import pytest

from k2mlx import cli
from k2mlx.bench import rounds as bench
from k2mlx.errors import K2Error, MissingExtraError, RequestError
from k2mlx.load import load
from tests.folders import write_folder

pytest.importorskip("mlx_lm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("models") / "tiny", n_routed_experts=4)


def logits(model, length):
    ids = mx.array([[20 + 7 * i % 400 for i in range(length)]])
    return np.array(model(ids))


@pytest.mark.parametrize("length", [1, 40])
def test_mlx_lm_with_our_weights_computes_our_logits(folder, length):
    from k2mlx.bench.peer import build

    loaded = load(folder)
    ours, theirs = logits(loaded.model, length), logits(build(loaded, exact=True), length)
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-4


def test_the_timed_peer_has_our_quantisation(folder):
    from mlx.utils import tree_flatten

    from k2mlx.bench.peer import _with_biases, build

    loaded = load(folder, as_stored=True)
    ours = _with_biases(loaded.model)
    theirs = dict(tree_flatten(build(loaded).parameters()))
    prefix = "model.layers.1.mlp"
    for kind in ("weight", "scales", "biases"):
        both = [theirs[f"{prefix}.switch_mlp.{half}_proj.{kind}"] for half in ("gate", "up")]
        stacked = mx.concatenate(both, axis=1)
        assert mx.array_equal(stacked, ours[f"{prefix}.experts.gate_up_proj.{kind}"])
    assert theirs["model.layers.0.self_attn.embed_q.weight"].dtype == mx.uint32
    assert theirs["lm_head.weight"].dtype == mx.uint32
    size = sum(value.nbytes for value in theirs.values())
    assert size == pytest.approx(sum(value.nbytes for value in ours.values()), rel=0.01)


def test_an_unquantised_model_is_compared_too(tmp_path):
    from k2mlx.bench.peer import build

    loaded = load(write_folder(tmp_path / "plain", quantization=None, n_routed_experts=4))
    ours, theirs = logits(loaded.model, 9), logits(build(loaded), 9)
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-4


def test_the_command_prints_a_json_object_a_line(folder, capfd):
    options = ["--prompt-tokens", "20", "--generate", "4", "--rounds", "1"]
    assert cli.main(["bench", "--model", str(folder), "--against", "mlx-lm", *options]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["case"] for row in rows] == ["prefill", "decode", "memory"]
    for row in rows:
        assert row["agree"]
        assert row["ratio"] > 0
        assert row["mlx_lm_version"] == "0.32.2"
        assert row["model"] == "tiny"
        assert row["plan"] == {"prompt": 20, "generate": 4, "rounds": 1, "chunk": 512}
        assert math.isclose(row["k2mlx"], row["all"]["k2mlx"][0])


class FakeWorker:
    """Answers from a table; records who is asked in which order."""

    asked: ClassVar = []
    seconds: ClassVar = {"k2mlx": 1.0, "mlx-lm": 2.0}
    noise = 0.0

    def __init__(self, side, model, chunk, check, folder):
        self.side, self.logits = side, folder / f"{side}.npy"
        np.save(self.logits, np.ones((1, 4)) + (self.noise if side == "k2mlx" else 0))

    def receive(self):
        return {"dtype": "float32"}

    def ask(self, question):
        self.asked.append(self.side)
        seconds = self.seconds[self.side]
        answer = {"prompt_seconds": seconds, "decode_seconds": 2 * seconds}
        return answer | {"peak_memory": int(1000 * seconds), "text": [1]}

    def close(self):
        pass


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(bench, "Worker", FakeWorker)
    monkeypatch.setattr(FakeWorker, "asked", [])
    return FakeWorker


def test_a_ratio_above_one_means_better_for_speed_and_memory(fake, tmp_path):
    rows = {row["case"]: row for row in bench.compare(tmp_path, bench.Plan(10, 5, 3), 100)}
    assert {case: row["ratio"] for case, row in rows.items()} == {
        "prefill": 2.0,
        "decode": 2.0,
        "memory": 2.0,
    }
    assert rows["prefill"]["k2mlx"] == 10.0
    assert rows["decode"]["k2mlx"] == 2.0
    assert rows["memory"]["mlx-lm"] == 2000
    assert rows["decode"]["rounds_with_equal_tokens"] == "3 of 3"


def test_rounds_alternate_and_change_who_is_first(fake, tmp_path):
    list(bench.compare(tmp_path, bench.Plan(10, 5, 3), 100))
    first = fake.asked[::2]
    assert first == ["mlx-lm", "k2mlx", "mlx-lm", "k2mlx"]
    assert all(set(fake.asked[i : i + 2]) == set(bench.SIDES) for i in range(0, 8, 2))


def test_a_disagreement_is_said(fake, monkeypatch, tmp_path):
    monkeypatch.setattr(FakeWorker, "noise", 0.5)
    rows = list(bench.compare(tmp_path, bench.Plan(10, 5, 1), 100))
    assert not any(row["agree"] for row in rows)
    assert rows[0]["logit_difference"] == pytest.approx(0.5)


def test_a_worker_that_fails_says_why(tmp_path):
    with pytest.raises(K2Error, match="k2mlx: CheckpointError"):
        list(bench.compare(tmp_path / "nothing", bench.Plan(10, 5, 1), 100))


def test_without_mlx_lm_the_error_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mlx-lm==0\.32\.2'"):
        list(bench.compare(tmp_path, bench.Plan(), 100))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rounds": 0}, "rounds: got 0"),
        ({"generate": 1}, "generate: got 1, wanted 2 or more"),
        ({"prompt": 0}, "prompt: got 0"),
        ({"chunk": 0}, "chunk: got 0"),
    ],
)
def test_bad_plans_are_refused(values, message):
    with pytest.raises(RequestError, match=message):
        bench.Plan(**values)


def test_a_plan_longer_than_the_context_is_refused(folder, capfd):
    assert cli.main(["bench", "--model", str(folder), "--prompt-tokens", "1000"]) == 2
    assert "the context is 1024" in capfd.readouterr().err
