"""How k2mlx does a job: through the engine and its queue, as everything else uses it.

Where a job starts from a cache that is filled with random rows, which no request can ask for, it
runs one level lower, on the Sequence that the engine runs for a request.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence as SequenceOf

import mlx.core as mx

from k2mlx.bench.measure import NotMeasuredError, Taken
from k2mlx.cache import LatentCache
from k2mlx.generate import Engine, Sampling
from k2mlx.generate.runner import Runner
from k2mlx.generate.sequence import Sequence
from k2mlx.load import Loaded


def greedy(count: int) -> Sampling:
    return Sampling(temperature=0, max_tokens=count, seed=0)


def first_token(engine: Engine, prompt: list[int]) -> Taken:
    """From submitting the prompt to the first token of the answer."""
    generation = engine.submit(prompt, greedy(1), stop_ids=())
    tokens = list(generation)
    stats = generation.stats
    return Taken(stats.first_token_seconds, [tokens], cached=stats.cached_tokens)


def decode(engine: Engine, prompts: SequenceOf[list[int]], count: int) -> Taken:
    """Seconds a step while all prompts go on together.

    Requests join one after another, so the steps that count are those of the first from when the
    last has joined; all are as long, so the first ends first. Its tokens are timed as they arrive.
    Raises: NotMeasuredError when they did not go on together.
    """
    began, generations = [], []
    for prompt in prompts:
        began.append(time.perf_counter())
        generations.append(engine.submit(prompt, greedy(count), stop_ids=()))
    times, first = [], []
    for token in generations[0]:
        times.append(time.perf_counter())
        first.append(token)
    tokens = [first, *(list(generation) for generation in generations[1:])]
    stats = [generation.stats for generation in generations]
    joined = max(t + s.first_token_seconds for t, s in zip(began, stats, strict=True))
    start = bisect_left(times, joined) if len(prompts) > 1 else 0
    steps = len(times) - 1 - start
    if steps < 1:
        raise NotMeasuredError(f"the engine did not run {len(prompts)} requests at once")
    return Taken((times[-1] - times[start]) / steps, tokens)


def converse(engine: Engine, opening: list[int], results: list[list[int]], answer: int) -> Taken:
    """Turns of a tool conversation: an answer, a result, an answer, ...: seconds to the first token
    of each turn after the first, and their mean."""
    prompt, waits, tokens, cached = list(opening), [], [], 0
    for result in [[], *results]:
        prompt = prompt + result
        generation = engine.submit(prompt, greedy(answer), stop_ids=())
        said = list(generation)
        waits.append(generation.stats.first_token_seconds)
        cached += generation.stats.cached_tokens
        tokens.append(said)
        prompt = prompt + said
    return Taken(sum(waits[1:]) / len(results), tokens, waits[1:], cached)


def random_cache(loaded: Loaded, depth: int) -> list[LatentCache]:
    """Caches that hold `depth` random rows in the model's dtype."""
    config, cache = loaded.config, loaded.model.make_cache()
    width = config.kv_lora_rank + config.qk_rope_head_dim
    for layer in cache:
        layer.append(mx.random.normal((1, depth, width), loaded.model.model.norm.weight.dtype))
        mx.eval(layer.state)
    return cache


def go_on(
    loaded: Loaded, cache: list[LatentCache], new: list[int], chunk: int, count: int
) -> Taken:
    """New tokens after the rows of the cache, then `count` tokens of an answer: seconds to the
    first, or with count above 1 seconds a step after it. The cache is left as it was."""
    depth = cache[0].offset
    prompt = [0] * depth + new
    began = time.perf_counter()
    sequence = Sequence(
        Runner(loaded.model, loaded.config.vocab_size),
        prompt,
        greedy(count),
        limit=count,
        cache=cache,
    )
    while sequence.prompt_left:
        sequence.prefill(chunk)
    tokens = sequence.advance()
    first = time.perf_counter()
    while len(tokens) < count:
        tokens += sequence.advance()
    seconds = first - began if count == 1 else (time.perf_counter() - first) / (count - 1)
    for layer in cache:
        layer.trim(layer.offset - depth)
    return Taken(seconds, [tokens])
