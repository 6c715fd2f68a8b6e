"""`k2mlx eval chat`: short chats without tools, to be read. Nothing is scored and nothing edited.

The user's lines are drawn by seed from the fixed list in `openings.py`, and do not depend on what
the model says. So some do not fit its answer, as with people who do not listen.
"""

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

from k2mlx.chat import CallEnd, End, Event, Text
from k2mlx.errors import RequestError
from k2mlx.eval.openings import TOPICS

TURNS = 3

# What a turn is run with: (messages, number of the turn among all) -> its events.
Ask = Callable[[list[dict[str, Any]], int], Iterable[Event]]
Chat = list[dict[str, Any]]


def user_lines(seed: int, count: int) -> list[list[str]]:
    """TURNS lines for each of `count` chats; a longer list begins with the shorter one.

    No opening comes twice before all have come.
    """
    openings = [(opening, topic) for topic in TOPICS for opening in topic.openings]
    chats = []
    for number in range(count):
        round_, place = divmod(number, len(openings))
        order = Random(f"{seed}:{round_}").sample(range(len(openings)), len(openings))
        opening, topic = openings[order[place]]
        rest = Random(f"{seed}:{round_}:{place}").sample(topic.follow_ups, TURNS - 1)
        chats.append([opening, *rest])
    return chats


def talk(
    seed: int, count: int, ask: Ask, on_chat: Callable[[Chat], None] | None = None
) -> list[Chat]:
    """Hold the chats. Each is a list of messages; an answer also has `finish_reason`."""
    chats = []
    for number, lines in enumerate(user_lines(seed, count)):
        chat: Chat = []
        for turn, line in enumerate(lines):
            chat.append({"role": "user", "content": line})
            chat.append(_answer(chat, number * TURNS + turn, ask))
        chats.append(chat)
        if on_chat:
            on_chat(chat)
    return chats


def _answer(chat: Chat, number: int, ask: Ask) -> dict[str, Any]:
    """The model's turn; calls of tools that were never offered are said as what they are."""
    text, reason = "", "stop"
    messages = [{"role": one["role"], "content": one["content"]} for one in chat]
    try:
        for event in ask(messages, number):
            if isinstance(event, Text):
                text += event.text
            elif isinstance(event, CallEnd):
                text += f"[calls {event.name}({event.arguments})]"
            elif isinstance(event, End):
                reason = event.finish_reason
    except RequestError:  # the chat outgrew the context
        reason = "context"
    return {"role": "assistant", "content": text, "finish_reason": reason}


def transcript(chats: Sequence[Chat]) -> str:
    """For reading: the chats numbered from 1, a line a message."""
    return "\n\n".join(_shown(number, chat) for number, chat in enumerate(chats, start=1))


def _shown(number: int, chat: Chat) -> str:
    lines = [f"{number}."]
    for message in chat:
        name = "you:    " if message["role"] == "user" else "k2mlx:  "
        text = message["content"].replace("\n", "\n" + " " * len(name))
        cut = " [cut off]" if message.get("finish_reason") in ("length", "context") else ""
        lines.append(f"{name}{text}{cut}")
    return "\n".join(lines)
