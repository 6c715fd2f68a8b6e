"""The jobs that are measured. A case opens what it needs and gives each contender's way to do the
job once; rounds.py calls them in turn.

To add one: write a function that returns a Case, whose `open` is a context that yields the
contenders by name, k2mlx first, and put it into CASES. A contender gets random numbers, the same
for all in a round, so that each draws the same prompts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from k2mlx.bench import experts, ours, texts, theirs
from k2mlx.bench.contest import Contest
from k2mlx.bench.measure import NotMeasuredError, Taken
from k2mlx.generate.memory import PrefixSettings

Run = Callable[[Random], Taken]
Contenders = dict[str, Run]
OURS, PEER, SERVED = "k2mlx", "mlx-lm", "mlx_lm.server"
RESULT, ANSWER = 30, 16  # tokens of a tool's result and of the call that follows it


@dataclass(frozen=True)
class Case:
    """One job.

    about: what its seconds are. context: the tokens it reaches. tokens: how many are computed in
    these seconds, where a rate says more. facts: what else is true of its rows.
    """

    name: str
    about: str
    context: int
    open: Callable[[Contest], AbstractContextManager[Contenders]]
    tokens: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def ids(contest: Contest, draw: Random, count: int) -> list[int]:
    """Random tokens of the model's tokenizer."""
    vocabulary = min(contest.loaded.tokenizer.vocab_size, contest.loaded.config.vocab_size)
    return [draw.randrange(vocabulary) for _ in range(count)]


def decode(streams: int, prompt: int = 128, answer: int = 128) -> Case:
    """Answers that are generated together, one token of each a step."""

    @contextmanager
    def opened(contest: Contest) -> Generator[Contenders]:
        def prompts(draw: Random) -> list[list[int]]:
            return [ids(contest, draw, prompt) for _ in range(streams)]

        with contest.engine(reuse=False, streams=streams) as engine:
            yield {
                OURS: lambda draw: ours.decode(engine, prompts(draw), answer),
                PEER: lambda draw: theirs.decode(
                    contest.peer, prompts(draw), answer, contest.chunk
                ),
            }

    about = f"a step of {streams} answer(s), after prompts of {prompt} tokens"
    return Case(f"decode-{streams}", about, prompt + answer, opened, streams)


def decode_at(depth: int, answer: int = 64) -> Case:
    """One answer after a long history of random rows."""
    case = append(depth, 1, answer)
    about = f"a step of 1 answer after {depth} tokens (random rows)"
    return Case(f"decode-1-at-{_short(depth)}", about, case.context, case.open, 1)


def append(depth: int, new: int = RESULT, answer: int = 1) -> Case:
    """A short message after a long history, up to the first token of its answer."""

    @contextmanager
    def opened(contest: Contest) -> Generator[Contenders]:
        loaded, peer, chunk = contest.loaded, contest.peer, contest.chunk
        dtype = loaded.model.model.norm.weight.dtype
        mine = ours.random_cache(loaded, depth)
        other = theirs.random_cache(peer, depth, dtype)

        def new_ids(draw: Random) -> list[int]:
            return ids(contest, draw, new)

        yield {
            OURS: lambda draw: ours.go_on(loaded, mine, new_ids(draw), chunk, answer),
            PEER: lambda draw: theirs.go_on(peer, other, new_ids(draw), chunk, answer),
        }

    about = f"{new} tokens after {depth} (random rows), to the first token of the answer"
    return Case(f"append-{new}-at-{_short(depth)}", about, depth + new + answer, opened)


def prefill(prompt: int) -> Case:
    """A prompt that no cache knows, up to the first token of its answer."""

    @contextmanager
    def opened(contest: Contest) -> Generator[Contenders]:
        with contest.engine(reuse=False) as engine:
            yield {
                OURS: lambda draw: ours.first_token(engine, ids(contest, draw, prompt)),
                PEER: lambda draw: theirs.first_token(
                    contest.peer, ids(contest, draw, prompt), contest.chunk
                ),
            }

    about = f"a prompt of {prompt} tokens to the first token of the answer"
    return Case(f"prefill-{prompt}", about, prompt + 1, opened, prompt)


def turns(opening: int, count: int = 20) -> Case:
    """A tool conversation; every engine keeps what it keeps between the turns."""

    @contextmanager
    def opened(contest: Contest) -> Generator[Contenders]:
        def talk(draw: Random) -> tuple[list[int], list[list[int]], int]:
            results = [ids(contest, draw, RESULT) for _ in range(count - 1)]
            return ids(contest, draw, opening), results, ANSWER

        peer, chunk = contest.peer, contest.chunk
        with contest.engine(reuse=True) as engine:
            yield {
                OURS: lambda draw: ours.converse(engine, *talk(draw)),
                PEER: lambda draw: theirs.converse(peer, *talk(draw), chunk),
                SERVED: lambda draw: theirs.converse_served(peer, *talk(draw), chunk),
            }

    about = (
        f"to the first token of turn 2 to {count}, mean: {RESULT} tokens of a tool's result after"
        f" a history that began with {opening}"
    )
    facts = {
        PEER: "its prompt cache kept in hand",
        SERVED: "LRUPromptCache and BatchGenerator as in server.py, without HTTP",
    }
    context = opening + count * (RESULT + ANSWER)
    return Case(f"turns-{_short(opening)}", about, context, opened, facts=facts)


def restart(history: int) -> Case:
    """The first token after a restart; loading the model is not counted, reading the cache is."""

    @contextmanager
    def opened(contest: Contest) -> Generator[Contenders]:
        peer, chunk = contest.peer, contest.chunk
        known = ids(contest, Random(history), history)
        folder = contest.scratch / "prefixes"
        kept = PrefixSettings(disk=1 << 40, folder=folder)
        file = contest.scratch / "mlx-lm.safetensors"
        with contest.engine(prefix=kept) as engine:
            ours.first_token(engine, known)
        theirs.save(peer, known, chunk, file)

        def resumed(draw: Random) -> Taken:
            new = ids(contest, draw, RESULT)
            with contest.engine(prefix=kept) as engine:
                assert engine.info  # loading is not counted
                return ours.first_token(engine, known + new)

        def again(draw: Random) -> Taken:
            return theirs.first_token(peer, known + ids(contest, draw, RESULT), chunk)

        try:
            yield {
                OURS: resumed,
                PEER: lambda draw: theirs.resume(peer, file, ids(contest, draw, RESULT), chunk),
                SERVED: again,
            }
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            file.unlink(missing_ok=True)

    about = (
        f"to the first token of {RESULT} new tokens after a history of {history}, the model loaded,"
        " the files in the system's cache"
    )
    facts = {
        PEER: "load_prompt_cache of a file that was saved for it",
        SERVED: "keeps nothing on disk and computes the history again",
    }
    context = history + RESULT + 1
    return Case(f"restart-{_short(history)}", about, context, opened, facts=facts)


def speculation(kind: str, answer: int = 200) -> Case:
    """Guessing what repeats, on a text that repeats itself and on one that does not."""

    @contextmanager
    def opened(contest: Contest) -> Generator[Contenders]:
        if not contest.trained:
            raise NotMeasuredError("random weights write no text that could be guessed")
        prompt = contest.loaded.tokenizer.encode(texts.PROMPTS[kind])
        with (
            contest.engine(reuse=False, speculate=True) as on,
            contest.engine(reuse=False, speculate=False) as off,
        ):
            yield {
                OURS: lambda draw: ours.decode(on, [prompt], answer),
                "k2mlx without speculation": lambda draw: ours.decode(off, [prompt], answer),
                PEER: lambda draw: theirs.decode(contest.peer, [prompt], answer, contest.chunk),
            }

    about = f"a token of a greedy answer to {texts.ABOUT[kind]}"
    facts = {PEER: "without a draft model: it does not guess from the text"}
    return Case(f"speculation-{kind}", about, 1024, opened, 1, facts)


def expert_layer(rows: int) -> Case:
    """The routed experts of one layer alone."""

    @contextmanager
    def opened(contest: Contest) -> Generator[Contenders]:
        yield {OURS: experts.ours(contest, rows), PEER: experts.theirs(contest, rows)}

    about = f"one layer's routed experts, {rows} token(s)"
    return Case(f"experts-{rows}", about, 0, opened, rows)


def _short(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)


_ALL = (
    *(decode(streams) for streams in (1, 4, 16)),
    decode_at(8192),
    *(prefill(prompt) for prompt in (512, 2048, 8192)),
    *(append(depth) for depth in (8192, 32768)),
    *(turns(opening) for opening in (1024, 8192)),
    *(restart(history) for history in (1024, 16384)),
    *(speculation(kind) for kind in texts.PROMPTS),
    *(expert_layer(rows) for rows in (1, 16, 512, 2048)),
)
CASES = {case.name: case for case in _ALL}
QUICK = ("decode-1", "prefill-512", "append-30-at-8k", "turns-1k")
