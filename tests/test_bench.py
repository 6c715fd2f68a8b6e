"""The bench: mlx-lm gets our weights, rounds alternate, ratios point the right way, and what is
timed is what its name says."""

import json
from dataclasses import replace
from random import Random
from time import sleep
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from k2mlx import cli
from k2mlx.bench import cases, contest, machine, ours, rounds, slice, where
from k2mlx.bench.measure import Measured, NotMeasuredError, Taken, measure
from k2mlx.bench.peer import _with_biases, build, store_kv_b
from k2mlx.config import QuantSpec
from k2mlx.home import find_model
from k2mlx.load import load
from tests.folders import write_folder

pytest.importorskip("mlx_lm")

NARROW = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "q_lora_rank": 32,
    "num_attention_heads": 4,
    "n_routed_experts": 96,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("models") / "tiny", n_routed_experts=4)


@pytest.fixture(scope="module")
def both(folder, tmp_path_factory):
    return contest.prepare(load(folder, as_stored=True), tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Not quantised: there both compute the very same, and the tokens of answers are equal."""
    path = write_folder(
        tmp_path_factory.mktemp("models") / "plain", quantization=None, n_routed_experts=4
    )
    # The tokenizer of these folders has fewer ids than the model, and only k2mlx leaves them out.
    loaded = replace(load(path), tokenizer=slice.SliceTokenizer(448))
    return contest.prepare(loaded, tmp_path_factory.mktemp("scratch"))


def narrow_slice(path, **changes):
    config = find_model("kimi-k2-thinking")
    rest = QuantSpec(4, 32)
    return slice.random_slice(config, path, layers=3, rest=rest, **(NARROW | changes))


def logits(model, length):
    ids = mx.array([[20 + 7 * i % 400 for i in range(length)]])
    return np.array(model(ids))


# The same weights on both sides.


@pytest.mark.parametrize("changes", [{}, {"quantization": None}])
@pytest.mark.parametrize("length", [1, 40])
def test_mlx_lm_with_our_weights_computes_our_logits(tmp_path, changes, length):
    model = write_folder(tmp_path / "model", n_routed_experts=4, **changes)
    loaded = load(model, as_stored=True)
    mine, other = logits(loaded.model, length), logits(build(loaded), length)
    assert np.abs(mine - other).max() / np.abs(other).max() < 1e-4


def test_the_timed_peer_has_our_quantisation_and_shares_our_arrays(folder):
    loaded = load(folder, as_stored=True)
    mine = _with_biases(loaded.model)
    peer = build(loaded)
    store_kv_b(peer, loaded.config)
    theirs = dict(tree_flatten(peer.parameters()))
    prefix = "model.layers.1.mlp"
    for kind in ("weight", "scales", "biases"):
        halves = [theirs[f"{prefix}.switch_mlp.{half}_proj.{kind}"] for half in ("gate", "up")]
        stacked = mx.concatenate(halves, axis=1)
        assert mx.array_equal(stacked, mine[f"{prefix}.experts.gate_up_proj.{kind}"])
    down = mine[f"{prefix}.experts.down_proj.weight"]
    assert theirs[f"{prefix}.switch_mlp.down_proj.weight"] is down
    assert theirs["model.layers.0.self_attn.embed_q.weight"].dtype == mx.uint32
    assert theirs["lm_head.weight"] is mine["lm_head.weight"]
    size = sum(value.nbytes for value in theirs.values())
    assert size == pytest.approx(sum(value.nbytes for value in mine.values()), rel=0.01)


def test_the_engines_agree_and_a_changed_weight_is_noticed(folder, tmp_path):
    assert contest.prepare(load(folder, as_stored=True), tmp_path).agreement.ok

    def damaged(loaded):
        peer = build(loaded)
        norm = peer.model.layers[1].input_layernorm
        norm.weight = norm.weight * mx.where(mx.arange(norm.weight.size) < 4, 1.5, 1.0)
        return peer

    found = contest.prepare(load(folder, as_stored=True), tmp_path, build=damaged).agreement
    assert not found.ok
    assert not contest.Agreement(float("nan"), 1.0).ok


def test_in_16_bits_rounding_is_allowed_and_other_weights_are_not(folder, tmp_path):
    loaded = load(folder, mx.bfloat16, as_stored=True)
    agreement = contest.prepare(loaded, tmp_path).agreement
    assert agreement.ok
    assert 1e-4 < agreement.difference < agreement.bound < 0.3

    def other(loaded):
        peer = build(loaded)
        for layer in peer.model.layers:
            layer.self_attn.o_proj.scales = layer.self_attn.o_proj.scales[::-1]
        return peer

    fresh = load(folder, mx.bfloat16, as_stored=True)
    assert not contest.prepare(fresh, tmp_path, build=other).agreement.ok


# Slices.


def test_a_slice_is_a_model_with_centred_weights_that_both_compute_alike(tmp_path):
    loaded = narrow_slice(tmp_path / "slice")
    named = loaded.model.named_parameters()
    assert all(mx.isfinite(v).all().item() for v in named.values() if v.dtype != mx.uint32)
    experts = loaded.model.layers[1].mlp.experts.gate_up_proj
    assert experts.weight.shape == (96, 64, 64 // 8)
    for module in (experts, loaded.model.lm_head):
        weight, scales, biases = module.parts
        w = mx.dequantize(weight, scales, biases, group_size=32, bits=4)
        assert abs(w.mean().item()) < 0.1 * w.std().item() + 0.002
        assert 0.005 < w.std().item() < 0.03
    assert not mx.array_equal(experts.weight[0], experts.weight[48])
    assert contest.prepare(loaded, tmp_path).agreement.ok


def test_a_slice_can_leave_the_rest_unquantised_and_depends_on_its_seed(tmp_path):
    config = find_model("kimi-k2-thinking")
    make = lambda name, seed: slice.random_slice(  # noqa: E731
        config, tmp_path / name, layers=2, rest=None, seed=seed, **NARROW
    )
    a, b, c = (make(name, seed).model.named_parameters() for name, seed in
               (("a", 1), ("b", 1), ("c", 2)))  # fmt: skip
    assert a["model.layers.0.self_attn.q_a_proj.weight"].dtype != mx.uint32
    for name in ("lm_head.weight", "model.layers.1.mlp.experts.down_proj.weight"):
        assert mx.array_equal(a[name], b[name])
        assert not mx.array_equal(a[name], c[name])


# Rounds and rows.


def contenders(asked, seconds):
    def way(name):
        def run(draw):
            asked.append((name, draw.random()))
            return Taken(seconds[name], [[1]])

        return run

    return {name: way(name) for name in seconds}


def test_rounds_alternate_with_the_same_draws_and_the_first_is_not_counted():
    asked = []
    ways = contenders(asked, {"k2mlx": 1.0, "mlx-lm": 2.0, "other": 3.0})
    results = rounds.alternate("a case", ways, 3)
    # Round 0 once; then short work is done twice, on other numbers the first time.
    names = [name for name, _ in asked[:3] + asked[4::2]]
    assert names == ["other", "mlx-lm", "k2mlx", "k2mlx", "mlx-lm", "other"] * 2
    counted = [draw for _, draw in asked[:3] + asked[4::2]]
    assert [len(set(counted[i : i + 3])) for i in range(0, 12, 3)] == [1] * 4
    assert len(set(counted)) == 4
    assert not {draw for _, draw in asked[3::2]} & set(counted)
    assert [len(found) for found in results.values()] == [3, 3, 3]


def test_long_work_is_done_once_a_round_on_the_same_numbers(monkeypatch):
    asked = []
    ways = contenders(asked, {"k2mlx": 1.0, "mlx-lm": 2.0})

    def slow(draw, run=ways["mlx-lm"]):
        sleep(0.05)
        return run(draw)

    monkeypatch.setattr(rounds, "SHORT", 0.05)
    rounds.alternate("a case", ways | {"mlx-lm": slow}, 2)
    assert [name for name, _ in asked].count("mlx-lm") == 3
    assert [name for name, _ in asked].count("k2mlx") == 5
    drawn = {name: {draw for n, draw in asked if n == name} for name in ways}
    assert drawn["mlx-lm"] < drawn["k2mlx"]


@given(
    st.lists(st.floats(0.01, 100), min_size=5, max_size=5),
    st.lists(st.floats(0.01, 100), min_size=5, max_size=5),
)
def test_a_ratio_above_one_means_that_k2mlx_is_better(mine, other):
    results = {
        name: [Measured(s, [[1]], peak=int(s * 1000)) for s in values]
        for name, values in (("k2mlx", mine), ("mlx-lm", other))
    }
    case = cases.Case("a", "seconds", 0, cases.prefill(1).open, tokens=10)
    time, memory = rounds.rows(case, results, {"case": "a", "model": "m"})
    a, b = sorted(mine)[2], sorted(other)[2]
    assert time["k2mlx"] == a
    assert time["mlx-lm"] == b
    assert (time["measure"], memory["measure"]) == ("time", "memory")
    assert time["ratio"] == pytest.approx(b / a, abs=1e-4)
    assert memory["ratio"] == pytest.approx(int(b * 1000) / int(a * 1000), abs=1e-3)
    assert time["tokens_per_second"]["k2mlx"] == pytest.approx(10 / a)
    assert time["all"] == {"k2mlx": mine, "mlx-lm": other}
    assert time["rounds_with_equal_tokens"] == 5
    assert time["model"] == "m"


def test_each_opponent_gets_its_rows_and_its_note():
    results = {name: [Measured(1.0, steps=[1.0, 2.0])] for name in ("k2mlx", "mlx-lm", "server")}
    case = cases.Case("a", "", 0, cases.prefill(1).open, facts={"server": "computes again"})
    found = list(rounds.rows(case, results, {"case": "a"}))
    assert [(r["against"], r["measure"]) for r in found] == [
        ("mlx-lm", "time"),
        ("mlx-lm", "memory"),
        ("server", "time"),
        ("server", "memory"),
    ]
    assert found[2]["note"] == "computes again"
    assert "note" not in found[0]
    assert found[0]["seconds_by_step"] == {"k2mlx": [1.0, 2.0], "mlx-lm": [1.0, 2.0]}
    assert found[1]["ratio"] is None  # nothing was allocated


def test_the_peak_is_what_the_work_allocates_beyond_what_was_there():
    held = mx.ones((1 << 20,))
    mx.eval(held)

    def work():
        mx.eval(mx.zeros((1 << 18,)) + 1)
        return Taken(1.0)

    assert 1 << 20 <= measure(work).peak <= 3 << 20
    assert measure(lambda: Taken(1.0)).peak < 1 << 16


# The cases.


SMALL = (
    cases.decode(1, prompt=9, answer=4),
    cases.decode(3, prompt=9, answer=12),
    cases.prefill(40),
    cases.restart(600),
    cases.speculation("copy", answer=8),
    cases.append(256, new=7),
    cases.append(256, new=1, answer=3),
    cases.turns(20, count=3),
    cases.expert_layer(1),
    cases.expert_layer(70),
)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_a_case_runs_on_both_sides(both, case):
    found = list(rounds.run(both, [case], 2, {"machine": "here"}))
    assert not any("skipped" in row for row in found)
    assert {row["measure"] for row in found} == {"time", "memory"}
    for row in found:
        assert row["case"] == case.name
        assert row["model"] == "tiny"
        assert row["machine"] == "here"
        assert row["agree"]
        assert row["mlx_lm_extra_bytes"] > 0
        assert row["rounds"] == 2
        assert len(row["all"]["k2mlx"]) == len(row["all"][row["against"]]) == 2
        if row["measure"] == "time":
            assert row["ratio"] > 0


@pytest.mark.parametrize("case", SMALL[:4], ids=lambda case: case.name)
def test_both_sides_say_the_same(plain, case):
    assert next(rounds.run(plain, [case], 2, {}))["rounds_with_equal_tokens"] == 2


def test_all_ways_to_converse_see_the_same_prompts(plain):
    """With each engine's tokens appended as they come: equal answers in every turn mean that every
    kept cache held what it should."""
    with cases.turns(20, count=4).open(plain) as ways:
        answers = [way(Random(3)).tokens for way in ways.values()]
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == 4
    assert all(len(said) == cases.ANSWER for said in answers[0])
    with cases.turns(20, count=4).open(plain) as ways:
        cached = ways["k2mlx"](Random(4)).cached
    turn = cases.RESULT + cases.ANSWER
    # Every turn's prompt but its result, and but the last sampled token, which no step took in.
    assert 0 <= sum(20 + i * turn - cases.RESULT for i in (1, 2, 3)) - cached <= 3


def test_a_restart_reads_the_history_from_disk(both):
    row = next(rounds.run(both, [cases.restart(600)], 1, {}))
    assert row["cached_tokens"] == 512  # whole blocks


def test_a_filled_cache_is_left_as_it_was(both):
    cache = ours.random_cache(both.loaded, 256)
    before = [np.array(layer.state) for layer in cache]
    first = ours.go_on(both.loaded, cache, [5, 6, 7], 2, 3)
    again = ours.go_on(both.loaded, cache, [5, 6, 7], 2, 3)
    assert first.tokens == again.tokens
    assert len(first.tokens[0]) == 3
    for layer, rows in zip(cache, before, strict=True):
        assert layer.offset == 256
        assert np.array_equal(np.array(layer.state), rows)


def test_mlx_lm_resumes_from_its_file_as_if_it_had_never_stopped(plain, tmp_path):
    from k2mlx.bench import theirs

    known, new = list(range(20, 70)), [9, 8, 7]
    theirs.save(plain.peer, known, 16, tmp_path / "cache.safetensors")
    resumed = theirs.resume(plain.peer, tmp_path / "cache.safetensors", new, 16)
    assert resumed.tokens == theirs.first_token(plain.peer, known + new, 16).tokens


def test_mlx_lm_decodes_a_batch_as_it_decodes_one_by_one(plain):
    from k2mlx.bench import theirs

    prompts = [[20 + i + 3 * j for j in range(8)] for i in range(3)]
    alone = [theirs.decode(plain.peer, [prompt], 5, 16).tokens[0] for prompt in prompts]
    assert theirs.decode(plain.peer, prompts, 5, 16).tokens == alone


class InTurn:
    """An engine that answers one request after another."""

    def submit(self, prompt, sampling, stop_ids):
        stats = SimpleNamespace(first_token_seconds=1e6 if prompt == [2] else 0.0)
        return type("G", (), {"stats": stats, "__iter__": lambda self: iter([1, 2, 3])})()


def test_what_cannot_be_measured_is_said_and_not_faked(both):
    with pytest.raises(NotMeasuredError, match="2 requests at once"):
        ours.decode(InTurn(), [[1], [2]], 3)
    assert ours.decode(InTurn(), [[1]], 3).seconds > 0
    row = next(rounds.run(replace(both, trained=False), [cases.speculation("copy")], 1, {}))
    assert "random weights" in row["skipped"]
    assert row["case"] == "speculation-copy"
    assert "ratio" not in row


def test_a_case_beyond_the_context_runs_and_says_so(both):
    case = cases.prefill(1100)
    row = next(rounds.run(both, [case], 1, {}))
    assert row["beyond_context"] == 1024
    assert "beyond_context" not in next(rounds.run(both, [cases.expert_layer(1)], 1, {}))


# Where the time goes.


def test_where_adds_up_and_knows_the_bytes(tmp_path):
    loaded = narrow_slice(tmp_path / "slice")
    found = where.where(loaded, depth=32, rounds=1)
    parts = {part["part"]: part for part in found["parts"]}
    assert list(parts) == [
        "router",
        "experts",
        "shared expert",
        "dense",
        "attention",
        "head",
        "embedding",
        "host",
    ]
    assert sum(part["ms"] for part in parts.values()) == pytest.approx(found["step_ms"])
    assert all(part["ms"] >= 0 for part in parts.values())
    assert found["step_ms"] > 0
    experts = [layer.mlp.experts for layer in loaded.model.layers[1:]]
    size = sum(v.nbytes for e in experts for _, v in tree_flatten(e.parameters()))
    assert parts["experts"]["bytes"] == pytest.approx(size * 8 / 96)
    rows = 3 * 32 * (512 + 64) * 4
    attention = (layer.self_attn for layer in loaded.model.layers)
    size = sum(v.nbytes for a in attention for _, v in tree_flatten(a.parameters()))
    assert parts["attention"]["bytes"] == size + rows
    floor = found["bytes"] / found["copy_bytes_per_second"] * 1e3
    assert found["floor_ms"] == pytest.approx(floor)
    text = where.table(found)
    assert all(name in text for name in parts)
    assert "whole step" in text


def test_the_step_that_where_times_is_the_models_until_parts_are_left_out(tmp_path, monkeypatch):
    """Each part matters to what comes out, so each is there until it is left out."""
    loaded = narrow_slice(tmp_path / "slice")
    token = mx.array([[5]])

    def states(without: frozenset[str]) -> mx.array:
        mx.random.seed(0)
        cache, found = ours.random_cache(loaded, 8), []
        step = where.Step(loaded, without)
        monkeypatch.setattr(step, "_model", Heard(loaded.model, found))
        step(token, cache)
        assert cache[0].offset == 8 + ("attention" not in without)
        return found[0]

    mx.random.seed(0)
    wanted = loaded.model.hidden(token, ours.random_cache(loaded, 8))
    whole = states(frozenset())
    assert mx.allclose(whole, wanted, rtol=1e-4, atol=1e-4).item()
    for part in set(where.PARTS) - {"head"}:
        assert not mx.allclose(states(frozenset({part})), whole, rtol=1e-3, atol=1e-3).item()


class Heard:
    """The model, and what its head is given."""

    def __init__(self, model, found):
        self._model, self._found = model, found

    def __getattr__(self, name):
        return getattr(self._model, name)

    def head(self, x):
        self._found.append(x)
        return self._model.head(x)


# The command.


def test_the_command_prints_a_json_object_a_line(folder, capfd):
    assert cli.main(["bench", "--model", str(folder), "--case", "experts-1", "--rounds", "1"]) == 0
    found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["measure"] for row in found] == ["time", "memory"]
    for row in found:
        assert row["mlx_lm_version"] == "0.32.2"
        assert row["machine"]
        assert row["commit"] is None or len(row["commit"]) >= 12


def test_the_command_stops_before_the_clock_when_the_engines_disagree(folder, capfd, monkeypatch):
    wrong = contest.Agreement(0.5, 1e-3)
    monkeypatch.setattr(contest, "_agree", lambda *_: wrong)
    assert cli.main(["bench", "--model", str(folder), "--case", "experts-1"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "differ by 0.5, 0.001 is allowed" in err


def test_where_is_printed_as_a_table_and_as_json(folder, capfd):
    options = ["--where", "--depth", "16", "--rounds", "1"]
    assert cli.main(["bench", "--model", str(folder), *options]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["depth"] == 16
    assert "whole step" in err


def test_families_of_cases_and_single_ones_are_found():
    from k2mlx.cli.bench import _cases

    names = lambda text: [case.name for case in _cases(text)]  # noqa: E731
    assert names("decode-1") == ["decode-1"]
    assert names("append,decode-4") == ["append-30-at-8k", "append-30-at-32k", "decode-4"]
    assert names("") == list(cases.QUICK)
    assert names("all") == list(cases.CASES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--case", "nothing"], "--case: got 'nothing'"),
        (["--rounds", "0"], "--rounds: got 0"),
        (["--chunk", "0"], "--chunk: got 0"),
        (["--model", "a", "--slice", "b"], "got both"),
        (["--slice", "kimi-k2-thinking", "--rest", "auto"], "--rest: got 'auto'"),
        (["--model", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_options_are_refused(options, message, capfd):
    assert cli.main(["bench", *options]) == 2
    assert message in capfd.readouterr().err


def test_without_mlx_lm_the_error_names_the_command(monkeypatch, capfd):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["bench"]) == 2
    assert "pip install 'mlx-lm==0.32.2'" in capfd.readouterr().err


def test_a_copy_without_history_takes_its_commit_from_the_environment(monkeypatch):
    def no_git(*_):
        raise FileNotFoundError("git")

    monkeypatch.setattr(machine, "_git", no_git)
    monkeypatch.delenv("K2MLX_COMMIT", raising=False)
    assert machine.commit() is None
    monkeypatch.setenv("K2MLX_COMMIT", "abc")
    assert machine.commit() == "abc"
