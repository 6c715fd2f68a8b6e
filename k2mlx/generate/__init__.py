"""Generating text: `engine` runs a model on its thread, `sampling` chooses tokens, `chat` speaks
events. Read `engine`, then `sequence`, which is one request's work, and `generation`, its reader;
`prefix` keeps what was computed for the next request, `disk` and `block` for the next start.

For a script, two functions suffice:

    from k2mlx import answer, stream_answer

    print(answer("models/k2-nano", "What is the capital of France?"))
    for text in stream_answer("models/k2-nano", "Tell me a story.", temperature=0.8):
        print(text, end="", flush=True)
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from k2mlx.chat import Text
from k2mlx.generate.chat import ChatStream, stream_chat
from k2mlx.generate.engine import Engine
from k2mlx.generate.generation import Generation, Stats
from k2mlx.generate.info import EngineInfo
from k2mlx.generate.memory import PrefixSettings
from k2mlx.generate.sampling import Sampling
from k2mlx.load import load

__all__ = [
    "ChatStream",
    "Engine",
    "EngineInfo",
    "Generation",
    "PrefixSettings",
    "Sampling",
    "Stats",
    "answer",
    "stream_answer",
    "stream_chat",
]


def stream_answer(
    model: str | Path | Engine, prompt: str, *, system: str | None = None, **sampling: Any
) -> Iterator[str]:
    """The model's answer to one user message, in pieces as they come.

    model: a folder, a bundled model's name, or an Engine (which stays loaded for the next call).
    sampling: fields of `Sampling`, such as temperature=0.8 or max_tokens=100.
    """
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    return _texts(model, messages, Sampling(**sampling))  # bad settings are reported here and now


def answer(
    model: str | Path | Engine, prompt: str, *, system: str | None = None, **sampling: Any
) -> str:
    """The model's answer to one user message; see `stream_answer`."""
    return "".join(stream_answer(model, prompt, system=system, **sampling))


def _texts(
    model: str | Path | Engine, messages: list[dict[str, Any]], sampling: Sampling
) -> Iterator[str]:
    if not isinstance(model, Engine):
        with Engine(lambda: load(model)) as engine:
            yield from _texts(engine, messages, sampling)
        return
    for event in stream_chat(model, messages, None, sampling):
        if isinstance(event, Text):
            yield event.text
