"""Simple chat in modern English, turns that hang together. Phrases stand in `chats/*.txt`:

    > utterance | utterance       what the user may say
    < answer | answer             what the assistant may answer
    >> utterance, << answer       a follow-up of the exchange above, and so on deeper

A name or home town that the user told stays known to the end of the conversation.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random

from k2mlx.synth.facts import fact
from k2mlx.synth.phrasing import Scope, render, slots, typed
from k2mlx.synth.talk import Talk

FOLDER = Path(__file__).parent / "chats"
_SHARE_OF_A_FILE = 60
# Slots that stay known when the topic changes.
_KEPT = ("name", "home")
_NAME_QUESTIONS = (
    "what is my name?",
    "do you still know my name?",
    "what's my name again?",
    "who am I?",
)
_NAME_ANSWERS = (
    "Your name is {name}.",
    "You are {name}.",
    "You told me that you are {name}.",
    "It is {name}.",
)
_HOME_QUESTIONS = (
    "where do I live?",
    "do you remember where I am from?",
    "which city did I tell you about?",
)
_HOME_ANSWERS = ("You told me about {home}.", "It was {home}.", "You said {home}.")
_STILL_UNKNOWN = (
    "I don't know. You have not told me yet.",
    "You did not tell me.",
    "I don't know that. Tell me!",
)


@dataclass
class Exchange:
    """What the user may say, what is answered, and what may follow."""

    asked: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    following: list["Exchange"] = field(default_factory=list)


def chat(rng: Random) -> Talk:
    """A conversation without tools."""
    talk = Talk()
    converse(talk, rng.choice((1, 2, 2, 3, 3, 4)), rng)
    return talk


def converse(talk: Talk, turns: int, rng: Random, files: tuple[str, ...] = ()) -> None:
    """Adds `turns` exchanges to a talk, from some files only if `files` names them."""
    scope: Scope = {}
    at: Exchange | None = None
    for turn in range(turns):
        special = rng.random()
        if turn and special < 0.10:
            at = None
            _recall(talk, scope, rng)
            continue
        if special > 0.90 and not files:
            question, answered = fact(rng)
            talk.user(typed(question, rng))
            talk.answer(answered)
            at = None
            continue
        follow = at.following if at and rng.random() < 0.8 else []
        if not follow:
            scope = {key: value for key, value in scope.items() if key in _KEPT}
        at = rng.choice(follow) if follow else _opening(turn, rng, files)
        talk.user(typed(render(rng.choice(at.asked), scope, rng), rng))
        talk.answer(_answer(at, scope, rng))


def _answer(exchange: Exchange, scope: Scope, rng: Random) -> str:
    """An answer that does not lean on something the user has not said."""
    told = ("name", "home", "pet", "friend")
    fitting = [a for a in exchange.answered if not (slots(a) & set(told)) - set(scope)]
    return render(rng.choice(fitting or exchange.answered), scope, rng)


def _recall(talk: Talk, scope: Scope, rng: Random) -> None:
    """The user asks for something told before, or not told at all."""
    key, questions, answers = rng.choice(
        (("name", _NAME_QUESTIONS, _NAME_ANSWERS), ("home", _HOME_QUESTIONS, _HOME_ANSWERS))
    )
    talk.user(typed(rng.choice(questions), rng))
    talk.answer(render(rng.choice(answers if key in scope else _STILL_UNKNOWN), scope, rng))


def _opening(turn: int, rng: Random, files: tuple[str, ...]) -> Exchange:
    found = exchanges()
    if files:
        pool = [exchange for name in files for exchange in found[name]]
    else:
        # A long file must not crowd out greetings and the assistant itself.
        shares = [min(len(each), _SHARE_OF_A_FILE) for each in found.values()]
        pool = rng.choices(list(found.values()), shares)[0]
    # Introductions carry a name through a conversation, so they come often at the start.
    if turn == 0 and not files and rng.random() < 0.12:
        every = [exchange for each in found.values() for exchange in each]
        return rng.choice([x for x in every if any("{name" in asked for asked in x.asked)])
    return rng.choice(pool)


@lru_cache(maxsize=1)
def exchanges() -> dict[str, list[Exchange]]:
    """File name -> its opening exchanges."""
    return {path.stem: _read(path) for path in sorted(FOLDER.glob("*.txt"))}


def _read(path: Path) -> list[Exchange]:
    root = Exchange()
    branch = [root]
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r"(>+|<+) (.*)", line)
        if not match:
            assert not line.strip() or line.startswith("#"), f"{path.name}: cannot read {line!r}"
            continue
        depth, parts = len(match[1]), match[2].split(" | ")
        if match[1][0] == ">":
            assert depth <= len(branch), f"{path.name}: {line!r} is nested too deep"
            branch = branch[:depth]
            branch.append(Exchange(asked=parts))
            branch[depth - 1].following.append(branch[depth])
        else:
            assert depth == len(branch) - 1, f"{path.name}: {line!r} answers nothing"
            branch[depth].answered += parts
    return root.following
