"""Draws all kinds of conversation, drops what is held out or a repetition, and writes JSONL."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from k2mlx.agent.heldout import is_held_out_call
from k2mlx.synth.chat import chat
from k2mlx.synth.lookup import lookup
from k2mlx.synth.medley import medley, remarks
from k2mlx.synth.mixed import mixed
from k2mlx.synth.schemas import draw_schemas
from k2mlx.synth.single_turn import calculator, clock_talk, units_talk
from k2mlx.synth.small_talk import small_talk
from k2mlx.synth.talk import Talk

# kind -> (generator, share of `synth tools`).
KINDS: dict[str, tuple[Callable[[Random], Talk], int]] = {
    "calculator": (calculator, 25),
    "clock": (clock_talk, 10),
    "units": (units_talk, 15),
    "no_tool": (small_talk, 20),
    "mixed": (mixed, 20),
    "medley": (medley, 30),
    "remarks": (remarks, 3),
    "schemas": (draw_schemas, 45),
    "chat": (chat, 20),
    "lookup": (lookup, 15),
}
_TRIES_PER_RECORD = 50


def records(
    kind: str, count: int, seed: int, held_out_text: Callable[[str], bool] = lambda text: False
) -> Iterator[dict]:
    """`count` different conversations of one kind; fewer only if the generator runs dry.

    `held_out_text` says which user turns no training conversation may contain; held-out calls are
    known here.
    """
    rng = Random(f"{kind} {seed}")
    generate = KINDS[kind][0]
    seen: set[str] = set()
    for _ in range(count * _TRIES_PER_RECORD):
        if len(seen) == count:
            return
        record = generate(rng).record(kind)
        if record["id"] in seen or is_held_out(record, held_out_text):
            continue
        seen.add(record["id"])
        yield record


def is_held_out(record: dict, held_out_text: Callable[[str], bool]) -> bool:
    """Whether a conversation contains a held-out call or a held-out wording."""
    for message in record["messages"]:
        for call in message.get("tool_calls", ()):
            if is_held_out_call(call["function"]["name"], call["function"]["arguments"]):
                return True
        if message["role"] == "user" and held_out_text(message["content"]):
            return True
    return False


def shares(count: int) -> dict[str, int]:
    """How many of each kind make `count` in all."""
    whole = sum(share for _, share in KINDS.values())
    counts = {kind: count * share // whole for kind, (_, share) in KINDS.items()}
    counts["schemas"] += count - sum(counts.values())
    return counts


def write(lines: Iterator[dict], path: Path) -> int:
    """Writes JSON lines; returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            written += 1
    return written
