"""A model of a few rules behind the engine's own channel, and the page served with it.

What it answers depends on the last message only, so that a page can be driven without weights.
As a program it serves the page: python -m tests.apps.scripted
"""

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

from k2mlx.errors import RequestError
from k2mlx.generate.generation import Channel, Generation, Stats
from k2mlx.generate.info import EngineInfo
from k2mlx.generate.sampling import Sampling
from k2mlx.tokenizer import ByteTokenizer

CONTEXT = 6000
CHUNK = 512


class ScriptedEngine:
    """Looks like `k2mlx.generate.Engine`. delay: seconds a token; a chunk of the prompt takes ten.

    `cancelled` counts the requests that were stopped before they ended.
    """

    def __init__(self, delay: float = 0.0, context: int = CONTEXT) -> None:
        self.info = EngineInfo("scripted", 52_000_000, 31_400_000, context, "cpu")
        self.config = SimpleNamespace(chat_format="k2-nano")
        self.tokenizer = ByteTokenizer()
        self.prompts: list[str] = []
        self.cancelled = 0
        self._delay = delay

    def submit(self, prompt_ids, sampling=None, on_progress=None, **_) -> Generation:
        sampling = sampling or Sampling()
        if len(prompt_ids) >= self.info.context:
            raise RequestError(f"prompt has {len(prompt_ids)} tokens; shorten it")
        channel = Channel(Stats(prompt_tokens=len(prompt_ids)))
        prompt = self.tokenizer.decode(prompt_ids)
        self.prompts.append(prompt)
        args = (channel, prompt, sampling.max_tokens, on_progress or (lambda done, total: None))
        threading.Thread(target=self._write, args=args, daemon=True).start()
        return Generation(channel)

    def _write(self, channel, prompt, limit, on_progress) -> None:
        stats, began = channel.stats, time.perf_counter()
        channel.start()
        try:
            for done in range(CHUNK, stats.prompt_tokens, CHUNK):
                on_progress(done, stats.prompt_tokens)
                time.sleep(10 * self._delay)
                if channel.cancelled:
                    break
            stats.prompt_seconds = stats.first_token_seconds = time.perf_counter() - began
            for token in self._tokens(prompt):
                if channel.cancelled or stats.completion_tokens == limit:
                    break
                time.sleep(self._delay)
                stats.completion_tokens += 1
                stats.seconds = time.perf_counter() - began
                channel.put(token)
        except Exception as error:
            channel.finish("error", error)
        self.cancelled += channel.cancelled
        if channel.cancelled:
            print("scripted: cancelled", flush=True)
        stopped = "length" if stats.completion_tokens == limit else "stop"
        channel.finish("cancelled" if channel.cancelled else stopped)

    def _tokens(self, prompt: str) -> Iterator[int]:
        for piece in re.split(r"(<\|\w+\|>)", answer(prompt)):
            special = self.tokenizer.special.get(piece)
            yield from self.tokenizer.encode(piece) if special is None else [special]


def answer(prompt: str) -> str:
    """The rules. `prompt` is what `render` makes, markers and all."""
    header, _, said = prompt.removesuffix("<|im_assistant|>assistant<|im_middle|>").rpartition(
        "<|im_middle|>"
    )
    said = said.removesuffix("<|im_end|>")
    if not header.rpartition("<|im_end|>")[2].startswith("<|im_user|>"):  # a tool's result
        return f"The result is {said.splitlines()[-1]}."
    product = re.search(r"(\d+) \* (\d+)", said)
    if product:
        if '"calculator"' not in prompt:
            return "I have no calculator."
        return call("calculator", {"expression": product[0]})
    if "time" in said:
        return call("clock", {"place": "Tokyo"}) + call("no_such_tool", {"a": ["<b>", 1]})
    if "long" in said:
        return " ".join(f"{i} sheep," for i in range(1, 400))
    if "echo" in said:
        return said
    if "crash" in said:
        raise RuntimeError("the script crashed")
    return "Hello! It is nice to talk with you."


def call(name: str, arguments: dict) -> str:
    return (
        "<|tool_calls_section_begin|>"
        f"<|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>"
        f"{json.dumps(arguments)}<|tool_call_end|><|tool_calls_section_end|>"
    )


def report_outbound(event: str, args: tuple) -> None:
    """An audit hook that prints every attempt of this program to reach another machine."""
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    if host not in ("127.0.0.1", "::1", "localhost"):
        print(f"scripted: outbound {event} {host}", flush=True)


def main() -> None:
    sys.addaudithook(report_outbound)
    from importlib import import_module

    from k2mlx.cli.chat import load_app

    serve = import_module(f"{load_app('chat').__name__}.serve")
    listener = serve.open_socket("127.0.0.1", None)
    serve.run(
        ScriptedEngine(delay=0.01), listener, lambda: serve.announce(serve.url(listener), False)
    )


if __name__ == "__main__":
    main()
