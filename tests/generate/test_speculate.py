"""Speculation: the same tokens as without it, whatever is guessed, and no time lost by it."""

import random
import threading
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2mlx.generate import scheduler as scheduler_module
from k2mlx.generate.runner import Runner
from k2mlx.generate.sampling import Keys, Sampling, sample, sample_each
from k2mlx.generate.sequence import Sequence
from k2mlx.generate.speculate import AT_ONCE, SIZES, Costs, Drafts, Match, NgramIndex
from k2mlx.load import load
from k2mlx.model import Model
from tests.generate.conftest import ScriptedModel
from tests.models import TINY, random_config

MOST = SIZES[-1]
# A fixed choice of examples: two tokens of a random model may be as likely to the last bit.
fixed = settings(
    max_examples=16,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**31)


class Free(Costs):
    """Always guess as much as there is."""

    def best(self, chance, most):
        return most


class Oracle:
    """Knows the text; guesses from it, spoiled by `spoil(guesses, rng)`."""

    def __init__(self, text, spoil, seed=0):
        self._text, self._spoil, self._known = text, spoil, 0
        self._rng = random.Random(seed)

    def extend(self, tokens):
        self._known += len(tokens)

    def propose(self, most):
        guesses = self._spoil(list(self._text[self._known : self._known + most]), self._rng)
        return Match(8, guesses) if guesses else None


def other(token):
    return 17 if token != 17 else 18


def some(guesses, rng):
    """Right up to somewhere, wrong from there to somewhere, now and then nothing."""
    right = rng.randint(0, len(guesses))
    return (guesses[:right] + [other(t) for t in guesses[right:]])[: rng.randint(0, len(guesses))]


SPOILS = {
    "right": lambda guesses, rng: guesses,
    "wrong": lambda guesses, rng: [other(t) for t in guesses],
    "some": some,
    "never": lambda guesses, rng: [],
}


def model_of(seed, dtype=mx.float32):
    """A random K2 that is sure enough of its choices for them to depend on the text."""
    model = Model(replace(random_config(seed), vocab_size=96))
    model.reset(seed)
    model.update({"lm_head": {"weight": model.lm_head.weight * 40}})
    model.set_dtype(dtype)
    mx.eval(model.parameters())
    return model


def sequence_of(model, prompt, sampling, limit, proposer=None, **options):
    options = {"vocabulary": 96} | options
    drafts = None if proposer is None else Drafts(options.pop("costs", None) or Free(), proposer)
    cache = options.pop("cache", None)
    runner = Runner(model, **options)
    return Sequence(runner, prompt, sampling, limit=limit, drafts=drafts, cache=cache)


def step(sequence):
    if not sequence.prompt_left:
        return sequence.advance()
    sequence.prefill(7)
    return []


def run(sequence):
    """The answer; checks what holds between steps."""
    prompt, limit = len(sequence.tokens), sequence.room
    given = []
    while sequence.room:
        given += step(sequence)
        offsets = {layer.offset for layer in sequence.cache}
        assert offsets == {sequence.filled}
        assert sequence.tokens[prompt:] == given
        if given:
            assert len(sequence.tokens) - sequence.filled in (0, 1)
        assert sequence.room == limit - len(given) >= 0
    return given


# The index


def reference(tokens, orders, longest, most):
    size = len(tokens)
    for n in sorted(orders, reverse=True):
        ends = [e for e in range(n, size) if tokens[e - n : e] == tokens[size - n :]]
        if n <= size and ends:
            end = ends[-1]
            fits = [m for m in range(1, longest + 1) if tokens[:end][-m:] == tokens[-m:]]
            length = max(m for m in fits if m <= end)
            text = list(tokens)
            for _ in range(most):
                text.append(text[len(text) - size + end])
            return Match(length, text[size:])
    return None


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=9), max_size=12),
    st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True),
    st.integers(6, 12),
    st.integers(1, 20),
)
@settings(deadline=None)
def test_the_index_finds_the_latest_match_of_the_longest_order(parts, orders, longest, most):
    index, tokens = NgramIndex(orders, longest), []
    for part in parts:
        index.extend(part)
        tokens += part
        assert index.propose(most) == reference(tokens, orders, longest, most)
    assert len(index) == len(tokens)


def test_equal_hashes_are_no_match():
    index = NgramIndex([3])
    assert hash((-1, 7, 7)) == hash((-2, 7, 7))
    index.extend([-1, 7, 7, 5, -2, 7, 7])
    assert index.propose(4) is None
    index.extend([5, -2, 7, 7])
    assert index.propose(2) == Match(6, [5, -2])


def test_orders_that_cannot_match_are_refused():
    for orders in ([], [0], [40]):
        with pytest.raises(ValueError, match="orders"):
            NgramIndex(orders)


def test_a_long_prompt_is_learned_behind_several_steps():
    drafts = Drafts(Free())
    tokens = [1, 2, 3, 4] * AT_ONCE
    for _ in range(3):
        drafts.learn(tokens)
        assert drafts.propose(4) == []  # the end is not known yet
    drafts.learn(tokens)
    assert drafts.propose(4) == [1, 2, 3, 4]
    assert drafts.propose(2) == [1, 2]


# Keys and sampling


@given(seeds, st.lists(st.tuples(st.integers(0, 200), st.integers(1, 17)), max_size=6))
@settings(deadline=None)
def test_a_key_depends_on_seed_and_place_alone(seed, asked):
    straight = np.array(Keys(seed).at(0, 256))
    assert len(np.unique(straight, axis=0)) == 256
    keys = Keys(seed)
    for start, count in asked:
        np.testing.assert_array_equal(np.array(keys.at(start, count)), straight[start:][:count])


@given(
    seeds,
    st.integers(1, 17),
    st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    st.sampled_from([1.0, 0.8]),
    st.sampled_from([0, 5]),
    st.sampled_from([0.0, 0.1]),
)
@settings(deadline=None)
def test_rows_are_sampled_as_if_alone(seed, rows, temperature, top_p, top_k, min_p):
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    logits = mx.array(np.random.default_rng(seed).normal(size=(rows, 211)).astype(np.float32) * 3)
    keys = Keys(seed).at(seed % 100, rows)
    alone = [sample(logits[i : i + 1], keys[i], sampling).item() for i in range(rows)]
    assert sample_each(logits, keys, sampling).tolist() == alone


# The same tokens

samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.0, 0.7, 1.5]),
    top_p=st.sampled_from([1.0, 0.9]),
    top_k=st.sampled_from([0, 20]),
    seed=seeds,
)


@pytest.mark.parametrize("kind", SPOILS)
@given(seed=seeds, length=st.integers(1, 30), limit=st.integers(1, 40), sampling=samplings)
@fixed
def test_guesses_never_change_a_token(kind, seed, length, limit, sampling):
    model = model_of(seed % 6)
    prompt = np.random.default_rng(seed).integers(0, 96, length).tolist()
    plain = run(sequence_of(model, prompt, sampling, limit))
    oracle = Oracle(prompt + plain, SPOILS[kind], seed)
    sequence = sequence_of(model, prompt, sampling, limit, oracle)
    assert run(sequence) == plain
    drafts = sequence.drafts
    if kind == "right":
        assert drafts.accepted == drafts.drafted
        assert drafts.drafted >= (limit - 1) * MOST // (MOST + 1)
    if kind == "wrong":
        assert drafts.accepted == 0
        assert drafts.drafted > 0 or limit < 2
    if kind == "never":
        assert drafts.drafted == 0


@given(seed=seeds, sampling=samplings)
@fixed
def test_the_index_never_changes_a_token(seed, sampling):
    model = model_of(seed % 6)
    part = np.random.default_rng(seed).integers(0, 96, 9).tolist()
    plain = run(sequence_of(model, part * 3, sampling, 40))
    sequence = sequence_of(model, part * 3, sampling, 40, NgramIndex())
    assert run(sequence) == plain
    assert sequence.drafts.drafted > 0


@given(seed=seeds, kind=st.sampled_from(["right", "wrong", "some"]), steps=st.integers(1, 8))
@fixed
def test_the_cache_holds_what_a_prefill_of_its_tokens_gives(seed, kind, steps):
    model = model_of(seed % 6)
    prompt = np.random.default_rng(seed).integers(0, 96, 11).tolist()
    greedy = Sampling(temperature=0)
    plain = run(sequence_of(model, prompt, greedy, 60))
    sequence = sequence_of(model, prompt, greedy, 60, Oracle(prompt + plain, SPOILS[kind], seed))
    for _ in range(2 + steps):
        if sequence.room:
            step(sequence)
    fresh = model.make_cache()
    model.hidden(mx.array([sequence.tokens[: sequence.filled]]), fresh)
    for ours, theirs in zip(sequence.cache, fresh, strict=True):
        np.testing.assert_allclose(np.array(ours.state), np.array(theirs.state), atol=2e-3)


@given(seed=seeds, length=st.integers(1, 40))
@fixed
def test_an_end_within_a_run_leaves_a_cache_to_go_on_from(seed, length):
    model = model_of(seed % 6)
    greedy, prompt = Sampling(temperature=0), [5, 6, 7]
    plain = run(sequence_of(model, prompt, greedy, 50))
    sequence = sequence_of(model, prompt, greedy, 50, Oracle(prompt + plain, some, seed))
    while len(sequence.tokens) < 3 + length:
        step(sequence)
    sequence.rewind(len(sequence.tokens) - 3 - length)
    assert sequence.tokens == (prompt + plain)[: 3 + length]
    assert sequence.filled in (len(sequence.tokens) - 1, len(sequence.tokens))
    turn = sequence.tokens + plain[length : length + 1]
    after = sequence_of(model, turn, greedy, 5, cache=sequence.cache)
    assert run(after) == plain[length + 1 : length + 6]


# Lower precision: one row and several rows are computed by different kernels.


def first_difference_margin(model, prompt, sampling, one, two):
    """How close the choice was where two answers part; None if they do not.

    Greedy: between the two logits. Sampled: MLX draws a number and takes the first token up to
    which the probabilities add up to it; this is how far that sum is from the number, for the
    earlier of the two tokens.
    """
    at = next((i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b), None)
    if at is None:
        return None
    logits = model(mx.array([prompt + one[:at]]))[0, -1].astype(mx.float32)
    if sampling.temperature == 0:
        return abs(logits[one[at]] - logits[two[at]]).item()
    drawn = mx.random.uniform(shape=(1,), key=Keys(sampling.seed).at(at)[0])
    sums = mx.cumsum(mx.softmax(logits / sampling.temperature))
    return abs(sums[min(one[at], two[at])] - drawn).item()


def differences(model, vocabulary, temperature, count):
    """The margins where speculation changed the answer, of `count` answers of 60 tokens."""
    margins = []
    for seed in range(count):
        prompt = np.random.default_rng(seed).integers(20, vocabulary, 12).tolist()
        sampling = Sampling(temperature=temperature, seed=seed)
        plain = run(sequence_of(model, prompt, sampling, 60, vocabulary=vocabulary))
        oracle = Oracle(prompt + plain, some, seed)
        guessed = run(sequence_of(model, prompt, sampling, 60, oracle, vocabulary=vocabulary))
        margins.append(first_difference_margin(model, prompt, sampling, plain, guessed))
    print(temperature, margins)
    return [margin for margin in margins if margin is not None]


# (type, closest logits, closest sums of probabilities): rounding of the type times the
# logits' size, about 20 here, and what experts that flip add to it.
TOLERANCES = {mx.bfloat16: (0.5, 0.05), mx.float16: (0.1, 0.01), mx.float32: (0.0, 0.0)}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_lower_precision_differs_only_where_it_is_close(dtype, temperature):
    config = replace(TINY, first_k_dense_replace=3)  # MLX on CPU gathers float32 matrices only
    model = Model(config)
    model.reset(4)
    model.update({"lm_head": {"weight": model.lm_head.weight * 40}})
    model.set_dtype(dtype)
    tolerance = TOLERANCES[dtype][temperature > 0]
    assert all(margin < tolerance for margin in differences(model, 96, temperature, 12))


class OtherKernels:
    """The model, with the rounding of another kernel (2^-8 of each value) for several rows."""

    def __init__(self, model):
        self._model = model
        self.make_cache, self.hidden = model.make_cache, model.hidden

    def __call__(self, tokens, cache=None):
        hidden = self._model.hidden(tokens, cache)
        if 1 < tokens.shape[1] <= MOST + 1:
            noise = mx.random.uniform(-1, 1, hidden.shape, key=mx.random.key(tokens.shape[1]))
            hidden = hidden * (1 + noise * 2**-8)
        return self._model.head(hidden)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_kernels_that_round_otherwise_change_close_choices_only(temperature):
    tolerance = TOLERANCES[mx.bfloat16][temperature > 0]
    margins = differences(OtherKernels(model_of(3)), 96, temperature, 30)
    assert margins  # there are such choices
    assert all(margin < tolerance for margin in margins)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
def test_k2_nano(dtype, temperature):
    model = load("models/k2-nano", dtype).model
    tolerance = TOLERANCES[dtype][temperature > 0]
    assert all(margin < tolerance for margin in differences(model, 8192, temperature, 3))


# In the engine

GREEDY = Sampling(temperature=0, max_tokens=40)


@pytest.fixture
def make_guessing(make_engine, monkeypatch):
    """make_engine whose requests guess with an Oracle: (text, spoil) -> engine."""

    def make(text, spoil, model=None, **options):
        drafts = lambda costs: Drafts(Free(), Oracle(text, spoil, 1))  # noqa: E731
        monkeypatch.setattr(scheduler_module, "Drafts", drafts)
        return make_engine(model, speculate=True, **options)

    return make


def answer_of(prompt, count):
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(ScriptedModel.following(tokens))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("kind", ["right", "some", "wrong"])
@given(limit=st.integers(1, 40), stop=st.integers(0, 45), length=st.integers(1, 9))
@fixed
def test_stops_limits_and_the_kept_cache_are_as_without(
    make_engine, make_guessing, kind, limit, stop, length
):
    prompt = [20 + 7 * i for i in range(length)]
    answer = answer_of(prompt, 46)
    guessing = make_guessing(prompt + answer, SPOILS[kind], chunk=4)
    plain = make_engine(chunk=4, speculate=False)
    sampling = Sampling(temperature=0, max_tokens=limit)
    ends = [answer[stop]]
    ours, theirs = (e.submit(prompt, sampling, stop_ids=ends) for e in (guessing, plain))
    assert list(ours) == list(theirs)
    assert ours.stats.finish_reason == theirs.stats.finish_reason
    assert ours.stats.completion_tokens == theirs.stats.completion_tokens
    # The next turn finds in the cache all that was answered, but perhaps the last token, and
    # nothing that was guessed beyond.
    given = ours.stats.completion_tokens
    turn = prompt + answer[: given + 5]
    ours, theirs = (
        e.submit(turn, Sampling(temperature=0, max_tokens=3)) for e in (guessing, plain)
    )
    assert list(ours) == list(theirs) == answer_of(turn, 3)
    assert theirs.stats.cached_tokens - ours.stats.cached_tokens in (0, 1)
    assert ours.stats.cached_tokens <= length + given + 1


def test_drafted_and_accepted_tokens_are_counted(make_guessing, make_engine):
    prompt = [20, 30, 40]
    text = prompt + answer_of(prompt, 40)
    right = make_guessing(text, SPOILS["right"]).submit(prompt, GREEDY)
    list(right)
    assert right.stats.drafted_tokens == right.stats.accepted_tokens > 30
    wrong = make_guessing(text, SPOILS["wrong"]).submit(prompt, GREEDY)
    list(wrong)
    assert wrong.stats.drafted_tokens > wrong.stats.accepted_tokens == 0
    off = make_engine(speculate=False).submit(prompt, GREEDY)
    list(off)
    assert off.stats.drafted_tokens == 0


def test_cancel_takes_effect_after_the_running_check(make_guessing):
    prompt, permits = [20, 30, 40], threading.Semaphore(3)
    text = prompt + answer_of(prompt, 200)
    model = ScriptedModel(permits=permits)
    engine = make_guessing(text, SPOILS["right"], model)
    generation = engine.submit(prompt, Sampling(temperature=0, max_tokens=200))
    first = next(generation)
    generation.cancel()
    permits.release(1)
    given = [first, *generation]
    assert given == text[3:][: len(given)]
    assert len(given) <= 3 * (MOST + 1)
    assert generation.stats.finish_reason == "cancelled"
    permits.release(1000)
    turn = prompt + given
    assert list(engine.submit(turn, GREEDY)) == answer_of(turn, 40)


def test_an_error_while_checking_reaches_its_own_reader(make_guessing):
    prompt = [20, 30, 40]
    engine = make_guessing(
        prompt + answer_of(prompt, 60), SPOILS["right"], ScriptedModel(fail_at=15)
    )
    with pytest.raises(RuntimeError, match="device failed at"):
        list(engine.submit(prompt, GREEDY))
    assert list(engine.submit([50], Sampling(temperature=0, max_tokens=3))) == answer_of([50], 3)


def test_a_plain_step_is_launched_before_the_last_is_awaited():
    model = ScriptedModel()
    sequence = sequence_of(model, [20, 30], GREEDY, 9, Oracle([], SPOILS["never"]), vocabulary=273)
    for count in range(1, 9):
        assert len(step(sequence)) == (count > 1)
        assert len(model.calls) == (count if count > 1 else 0)


# When it pays


class Timed(ScriptedModel):
    """A step takes cost(tokens) seconds on a device that never idles; their results are fetched in
    their order, and `clock` tells when each was there."""

    def __init__(self, cost):
        super().__init__()
        self.ends, self._cost, self._fetched = [0.0], cost, 0

    def __call__(self, tokens, cache):
        self.ends.append(self.ends[-1] + self._cost(tokens.shape[1]))
        return super().__call__(tokens, cache)

    def clock(self):
        self._fetched += 1
        return self.ends[self._fetched]


def timed_run(costs, cost, spoil, limit=400, seed=0, prompt=(20, 30, 40)):
    """(seconds of the answer, its Drafts, the sizes of its steps)."""
    model, prompt = Timed(cost), list(prompt)
    oracle = Oracle(prompt + answer_of(prompt, limit), spoil, seed)
    options = {"vocabulary": 273, "costs": costs, "clock": model.clock}
    sequence = sequence_of(model, prompt, GREEDY, limit, oracle, **options)
    run(sequence)
    return model.ends[-1], sequence.drafts, model.calls


def sometimes(chance):
    def spoil(guesses, rng):
        return [t if rng.random() < chance else other(t) for t in guesses]

    return spoil


@given(
    st.lists(st.floats(0, 1), min_size=MOST, max_size=MOST),
    st.one_of(st.sampled_from(list(SPOILS.values())), st.floats(0, 1).map(sometimes)),
    seeds,
)
@fixed
def test_it_never_costs_much(slopes, spoil, seed):
    """However the time grows with the drafts (up to a whole step each) and however well the guesses
    do: 1.5 % of the time, two steps to begin with, and one step's surprise."""
    added = [0, *np.cumsum(slopes).tolist()]
    costs, plain, spent = Costs(), 0, 0.0
    for i in range(3):
        seconds, _, _ = timed_run(costs, lambda n: 1 + added[n - 1], spoil, 200, seed + i)
        plain, spent = plain + 200, spent + seconds
        assert spent <= plain * 1.015 + 2 + MOST + 3


@given(st.floats(0.6, 1.0), seeds)
@fixed
def test_wrong_guesses_cost_next_to_nothing(slope, seed):
    costs = Costs()
    for i in range(3):
        seconds, _, _ = timed_run(costs, lambda n: 1 + slope * (n - 1), SPOILS["wrong"], 300, i)
        assert seconds <= 300 * 1.015 + 3


@pytest.mark.parametrize(("slope", "gain"), [(0.02, 6.0), (0.1, 4.0), (0.3, 2.2), (0.5, 1.5)])
def test_right_guesses_pay(slope, gain):
    seconds, drafts, _ = timed_run(Costs(), lambda n: 1 + slope * (n - 1), SPOILS["right"])
    assert seconds < 400 / gain
    assert drafts.accepted == drafts.drafted


def test_steps_that_cost_as_much_as_their_tokens_switch_it_off():
    costs = Costs()
    _, first, _ = timed_run(costs, float, SPOILS["right"])
    assert 0 < first.drafted < 60
    seconds, second, calls = timed_run(costs, float, SPOILS["right"])
    assert second.drafted < 60
    assert calls.count(1) > 330
    assert seconds < 405


def test_it_is_tried_again_when_times_change():
    costs = Costs()
    timed_run(costs, float, SPOILS["right"], 200)
    _, drafts, _ = timed_run(costs, lambda n: 1 + 0.2 * (n - 1), SPOILS["right"], 4000)
    assert drafts.accepted > 1000


def test_a_text_that_begins_to_copy_is_noticed():
    """Wrong guesses switch it off; that they are right again is seen without trying."""

    def spoil(guesses, rng):
        spoil.seen += 1
        return guesses if spoil.seen > 200 else [other(t) for t in guesses]

    spoil.seen = 0
    _, drafts, calls = timed_run(Costs(), lambda n: 1 + 0.4 * (n - 1), spoil)
    first = next(i for i, size in enumerate(calls) if i > 60 and size > 1)
    assert all(size == 1 for size in calls[60:190])
    assert first < 260
    assert drafts.accepted > 100


def test_a_hiccup_is_forgotten():
    """A step that takes long because something else ran does not switch it off for good."""
    hiccups = iter([1000.0])
    cost = lambda n: 1 + 0.1 * (n - 1) + (next(hiccups, 0.0) if n > 1 else 0.0)  # noqa: E731
    costs = Costs()
    timed_run(costs, cost, SPOILS["right"], 1500)
    seconds, _, _ = timed_run(costs, cost, SPOILS["right"])
    assert seconds < 200
