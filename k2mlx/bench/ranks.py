"""Several ranks beside one device and beside mlx-lm's pipeline, over one model, in one run.

Every rank makes the same random slice, so that rank 0 can also run it whole. All ranks go through
the same turns; before each they wait for each other.

    bound     S stages work on C chunks at most S C / (C + S - 1) times as fast as one: the first
              chunk has to get through all of them before the last one is busy
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from k2mlx.bench import machine, ours, peer, theirs
from k2mlx.bench.measure import Taken, measure
from k2mlx.generate import Engine
from k2mlx.load import Loaded, expand_all_but_experts
from k2mlx.model import Model
from k2mlx.nn.quant import QuantizedMatrix
from k2mlx.parallel.group import Group

ONE, RANKS, PEER = "one device", "k2mlx", "mlx-lm pipeline"
ANSWER, PROMPT = 64, 128  # tokens of the decode cases
TRIPS = 50
SHORT = 1.0  # seconds; shorter work is done twice, and the second time counts


@dataclass(frozen=True)
class Case:
    """A prompt to its first token, or answers that go on together; one: how many of them the single
    device decodes, whose rate a stage can reach while the others have theirs."""

    name: str
    prompt: int
    streams: int = 1
    one: int = 1
    answer: int = 1

    def bound(self, size: int, chunk: int) -> float:
        """How many times as fast as one device `size` of them can be."""
        chunks = -(-self.prompt // chunk)
        return size * chunks / (chunks + size - 1)


CASES = {
    case.name: case
    for case in (
        Case("ranks-prefill-2048", 2048),
        Case("ranks-prefill-8192", 8192),
        Case("ranks-prefill-32768", 32768),
        Case("ranks-decode-1", PROMPT, answer=ANSWER),
        Case("ranks-decode-8", PROMPT, streams=8, one=4, answer=ANSWER),
    )
}


def part(loaded: Loaded, layers: range) -> Loaded:
    """The same arrays as the model of a rank that holds these layers."""
    model = Model(loaded.config, held=layers)
    model.load_weights(list(loaded.model.named_parameters().items()), strict=False)
    model.eval()
    return Loaded(model, loaded.tokenizer, loaded.config, loaded.path, loaded.bytes)


def run(
    loaded: Loaded,
    group: Group,
    cases: list[Case],
    rounds: int,
    chunk: int,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[dict[str, Any]]:
    """The rows, on rank 0; the other ranks go along and get none.

    loaded: the whole model, with context enough for the cases; group: with the layers of this rank.
    """
    other = _peer(loaded)
    mine = part(loaded, group.layers)
    for held in (loaded, mine) if not machine.on_gpu() else ():
        expand_all_but_experts(held.model)  # as `load` does it there
        mx.eval(held.model.parameters())
    shared = machine.about() | {
        "model": loaded.path.name,
        "layers": loaded.config.num_hidden_layers,
        "ranks": group.size,
        "layers_of_rank_0": len(group.layers),
        "chunk": chunk,
        "rounds": rounds,
        "round_trip": _round_trip(group),
    }
    for case in cases:
        turns = _turns(case, loaded, mine, other, group, chunk)
        seconds: dict[str, list[float]] = {name: [] for name in turns}
        for number in range(rounds + 1):
            for name, turn in turns.items():
                say(f"{case.name}: round {number} of {rounds}: {name}")
                taken = _taken(turn, f"{case.name} {number}", group)
                if number:
                    seconds[name].append(taken.seconds)
        if group.leads:
            yield _row(case, seconds, group.size, chunk) | shared


def _round_trip(group: Group) -> float:
    """Seconds for a word to all ranks and back, the median: what the links cost at least once a
    token. Every rank calls it."""
    taken = []
    for _ in range(TRIPS):
        began = perf_counter()
        group.vote(0)
        taken.append(perf_counter() - began)
    return median(taken)


Turn = Callable[[Random], Taken]
NOTHING = Taken(0.0)


def _taken(turn: Turn, seed: str, group: Group) -> Taken:
    """What a turn took, on rank 0; done again where it was short, for the first time finds the
    other contender's buffers."""
    for _ in range(2):
        group.vote(0)
        measured = measure(lambda: turn(Random(seed)))
        if group.vote(int(measured.whole * 1e6) if group.leads else 1 << 40) >= SHORT * 1e6:
            break
    return measured


def _turns(
    case: Case, loaded: Loaded, mine: Loaded, other: nn.Module, group: Group, chunk: int
) -> dict[str, Turn]:
    def prompts(draw: Random, streams: int) -> list[list[int]]:
        vocabulary = loaded.config.vocab_size
        return [[draw.randrange(vocabulary) for _ in range(case.prompt)] for _ in range(streams)]

    def answered(engine: Engine, draw: Random, streams: int) -> Taken:
        if case.answer == 1:
            return ours.first_token(engine, prompts(draw, 1)[0])
        return ours.decode(engine, prompts(draw, streams), case.answer)

    def one(draw: Random) -> Taken:
        if not group.leads:
            return NOTHING
        with Engine(lambda: loaded, chunk=chunk, reuse=False) as engine:
            return answered(engine, draw, case.one)

    def ranks(draw: Random) -> Taken:
        with Engine(lambda: mine, chunk=chunk, reuse=False, group=group) as engine:
            if group.leads:
                return answered(engine, draw, case.streams)
            engine.follow()
            return NOTHING

    def pipelined(draw: Random) -> Taken:
        if case.answer == 1:
            return theirs.first_token(other, prompts(draw, 1)[0], chunk)
        return theirs.decode(other, prompts(draw, case.streams), case.answer, chunk)

    return {ONE: one, RANKS: ranks, PEER: pipelined}


def _peer(loaded: Loaded) -> nn.Module:
    """mlx-lm's model with this rank's layers alone."""
    built: Any = peer.build(loaded)
    built.model.pipeline(mx.distributed.init())
    # Other threads will read them, which cannot compute what was begun here.
    mx.eval(loaded.model.parameters(), built.parameters())
    for _, module in () if machine.on_gpu() else loaded.model.named_modules():
        if isinstance(module, QuantizedMatrix):
            mx.eval(module.parts)
    peer.store_kv_b(built, loaded.config)
    return built


def _row(case: Case, seconds: dict[str, list[float]], size: int, chunk: int) -> dict[str, Any]:
    """ratio: of one device's time to ours; for several streams of the tokens a second."""
    medians = {name: median(found) for name, found in seconds.items()}
    one, all_ranks, theirs_ = medians[ONE], medians[RANKS], medians[PEER]
    ratio = one / all_ranks * case.streams / case.one
    row: dict[str, Any] = {"case": case.name, "measure": "time", "unit": "s", "ratio": ratio}
    row |= {"against": ONE, "ratio_to_mlx_lm": theirs_ / all_ranks}
    bound = case.bound(size, chunk) if case.answer == 1 else min(size, case.streams)
    return row | {"bound": bound, "share_of_bound": ratio / bound} | medians | {"all": seconds}


def even(layers: int, size: int) -> list[range]:
    """As even as whole layers allow."""
    ends = [layers * rank // size for rank in range(size + 1)]
    return [range(a, b) for a, b in pairwise(ends)]
