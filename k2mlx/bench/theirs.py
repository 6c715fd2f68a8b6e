"""How mlx-lm does the same job, each time in the best way that mlx-lm 0.32.2 offers, and where the
issue asks for it the way of its server (without HTTP and template, which would only add)."""

from __future__ import annotations

import time
from collections.abc import Sequence as SequenceOf
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from k2mlx.bench.measure import Taken


def steps(
    model: nn.Module, prompt: list[int], count: int, chunk: int, cache: list[Any] | None = None
) -> tuple[list[int], list[float]]:
    """Tokens of a greedy answer and the times at which they came. Afterwards a given cache holds
    the prompt and all of them."""
    from mlx_lm.generate import generate_step

    found = generate_step(
        mx.array(prompt), model, max_tokens=count, prefill_step_size=chunk, prompt_cache=cache
    )
    tokens, times = [], []
    for token, _ in found:
        tokens.append(int(token))
        times.append(time.perf_counter())
    return tokens, times


def first_token(model: nn.Module, prompt: list[int], chunk: int) -> Taken:
    """From the prompt to the first token of the answer."""
    began = time.perf_counter()
    tokens, times = steps(model, prompt, 1, chunk)
    return Taken(times[0] - began, [tokens])


def decode(model: nn.Module, prompts: SequenceOf[list[int]], count: int, chunk: int) -> Taken:
    """Seconds a step: generate_step for one prompt, BatchGenerator for several, which all begin at
    once."""
    from mlx_lm.generate import BatchGenerator

    if len(prompts) == 1:
        tokens, times = steps(model, prompts[0], count, chunk)
        return Taken((times[-1] - times[0]) / (count - 1), [tokens])
    size = len(prompts)
    generator = BatchGenerator(
        model,
        completion_batch_size=size,
        prefill_batch_size=size,
        prefill_step_size=chunk,
    )
    answers = {uid: [] for uid in generator.insert(list(prompts), [count] * size)}
    times = []
    while responses := generator.next_generated():
        times.append(time.perf_counter())
        for response in responses:
            answers[response.uid].append(response.token)
    generator.close()
    return Taken((times[-1] - times[0]) / (count - 1), list(answers.values()))


def converse(
    model: nn.Module, opening: list[int], results: list[list[int]], answer: int, chunk: int
) -> Taken:
    """A tool conversation with the prompt cache kept in hand between the turns: only the result of
    the tool is new. See ours.converse."""
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    waits, tokens = [], []
    for new in [opening, *results]:
        began = time.perf_counter()
        said, times = steps(model, new, answer, chunk, cache)
        waits.append(times[0] - began)
        tokens.append(said)
    return Taken(sum(waits[1:]) / len(results), tokens, waits[1:])


def converse_served(
    model: nn.Module, opening: list[int], results: list[list[int]], answer: int, chunk: int
) -> Taken:
    """The same as mlx_lm.server does it: the nearest cache is copied out of its LRUPromptCache,
    a BatchGenerator goes on from it, and it is inserted again (server.py, _generate)."""
    from mlx_lm.generate import BatchGenerator
    from mlx_lm.models.cache import LRUPromptCache

    kept, prompt = LRUPromptCache(), list(opening)
    waits, tokens = [], []
    generator = BatchGenerator(model, prefill_step_size=chunk)
    for result in [[], *results]:
        prompt = prompt + result
        began = time.perf_counter()
        cache, rest = kept.fetch_nearest_cache("model", prompt)
        known = prompt[: len(prompt) - len(rest)]
        (uid,) = generator.insert([rest], [answer], caches=[cache], all_tokens=[known])
        del cache
        said: list[int] = []
        while len(said) < answer:
            for response in generator.next_generated():
                assert response.uid == uid
                if not said:
                    waits.append(time.perf_counter() - began)
                said.append(response.token)
                if response.finish_reason is not None:
                    kept.insert_cache("model", response.all_tokens[:], response.prompt_cache)
        tokens.append(said)
        prompt = prompt + said
    generator.close()
    return Taken(sum(waits[1:]) / len(results), tokens, waits[1:])


def random_cache(model: Any, depth: int, dtype: mx.Dtype) -> list[Any]:
    """Caches that hold `depth` random rows."""
    from mlx_lm.models.cache import make_prompt_cache

    cache, sizes = make_prompt_cache(model), model.args
    for layer in cache:
        layer.update_and_fetch(
            mx.random.normal((1, 1, depth, sizes.kv_lora_rank), dtype),
            mx.random.normal((1, 1, depth, sizes.qk_rope_head_dim), dtype),
        )
        mx.eval(layer.state)
    return cache


def go_on(model: nn.Module, cache: list[Any], new: list[int], chunk: int, count: int) -> Taken:
    """See ours.go_on."""
    from mlx_lm.models.cache import trim_prompt_cache

    depth = cache[0].offset
    began = time.perf_counter()
    tokens, times = steps(model, new, count, chunk, cache)
    seconds = times[0] - began if count == 1 else (times[-1] - times[0]) / (count - 1)
    trim_prompt_cache(cache, cache[0].offset - depth)
    return Taken(seconds, [tokens])


def save(model: nn.Module, history: list[int], chunk: int, file: Path) -> None:
    """Compute a history and save its prompt cache, as mlx_lm.cache_prompt does."""
    from mlx_lm.models.cache import make_prompt_cache, save_prompt_cache

    cache = make_prompt_cache(model)
    for start in range(0, len(history), chunk):
        model(mx.array([history[start : start + chunk]]), cache=cache)
        mx.eval([layer.state for layer in cache])
    save_prompt_cache(str(file), cache)


def resume(model: nn.Module, file: Path, new: list[int], chunk: int) -> Taken:
    """From the file to the first token after the new tokens."""
    from mlx_lm.models.cache import load_prompt_cache

    began = time.perf_counter()
    tokens, times = steps(model, new, 1, chunk, load_prompt_cache(str(file)))
    return Taken(times[0] - began, [tokens])
