"""Questions about what the user has just pasted: lists, tables, JSON, small stories. The answer is
always a copy, of words that mean nothing, so that reading the context is the only way to it."""

import json
from collections.abc import Callable
from random import Random

from k2mlx.synth.arithmetic import number
from k2mlx.synth.phrasing import typed
from k2mlx.synth.single_turn import opened
from k2mlx.synth.talk import Talk
from k2mlx.synth.toolbox import Toolbox
from k2mlx.synth.wild import invented, wild_identifier, wild_name, wild_word

# (what joins the two, how it is asked, how it is asked the other way round)
_STORIES: tuple[tuple[str, str, str], ...] = (
    ("{k} lives in {v}.", "where does {k} live?", "who lives in {v}?"),
    ("{k} works at {v}.", "where does {k} work?", "who works at {v}?"),
    ("{k} comes from {v}.", "where does {k} come from?", "who comes from {v}?"),
    ("{k} is married to {v}.", "who is {k} married to?", "who is {v} married to?"),
    ("The password of {k} is {v}.", "what is the password of {k}?", "whose password is {v}?"),
    ("{k} likes {v} best.", "what does {k} like best?", "who likes {v} best?"),
    ("{k} has the number {v}.", "which number has {k}?", "who has the number {v}?"),
    ("The capital of {k} is {v}.", "what is the capital of {k}?", "{v} is the capital of what?"),
    ("{k} drives a {v}.", "what does {k} drive?", "who drives a {v}?"),
    ("{k} means {v}.", "what does {k} mean?", "which word means {v}?"),
)
_FORWARD = (
    "what is {k}?", "which value has {k}?", "what stands beside {k}?", "look up {k}", "{k}?",
    "tell me the value of {k}", "what does it say for {k}?", "find {k} in this", "and {k}?",
)  # fmt: skip
_BACKWARD = (
    "which one is {v}?",
    "what has the value {v}?",
    "where do you see {v}?",
    "whose is {v}?",
)
_ECHOES = (
    "repeat after me: {v}", "say {v}", "write {v}", "please repeat: {v}", "copy this exactly: {v}",
    "type this for me: {v}", "say this once more: {v}", "echo {v}", "can you write {v}?",
)  # fmt: skip
_BEFORE = (
    "",
    "Here is my list:\n",
    "Read this.\n",
    "Look at this:\n",
    "From my notes:\n",
    "This is what I have:\n",
)
_SAID = ("{a}.", "{a}.", "{a}", "It is {a}.", "It says {a}.", "That is {a}.")


def lookup(rng: Random) -> Talk:
    """A text with facts and one to four questions answered by it, or words to repeat."""
    talk = opened(Toolbox(rng)) if rng.random() < 0.4 else Talk()
    if rng.random() < 0.2:
        for _ in range(rng.randint(1, 3)):
            said = " ".join(_value(rng) for _ in range(rng.randint(1, 8)))
            talk.user(typed(rng.choice(_ECHOES), rng).replace("{v}", said))
            talk.copy(said)
        return talk
    count = rng.randint(4, 12)
    facts = dict(zip(_distinct(_key, count, rng), _distinct(_value, count, rng), strict=True))
    story = rng.choice(_STORIES) if rng.random() < 0.4 else None
    text = _told(facts, story, rng)
    for turn, (key, value) in enumerate(rng.sample(sorted(facts.items()), rng.randint(1, 4))):
        back = rng.random() < 0.25
        if story:
            question = story[2] if back else story[1]
        else:
            question = rng.choice(_BACKWARD if back else _FORWARD)
        asked = typed(question, rng).replace("{k}", key).replace("{v}", value)
        talk.user(f"{rng.choice(_BEFORE)}{text}\n{asked}" if not turn else asked)
        talk.copy(rng.choice(_SAID).replace("{a}", key if back else value))
    return talk


def _told(facts: dict[str, str], story: tuple[str, str, str] | None, rng: Random) -> str:
    if story:
        lines = [story[0].replace("{k}", key).replace("{v}", value) for key, value in facts.items()]
        return rng.choice((" ", "\n")).join(lines)
    form = rng.randrange(5)
    if form == 0:
        return json.dumps(facts, ensure_ascii=False)
    if form == 1:
        names = rng.choice((("name", "value"), ("key", "text"), ("id", "title")))
        rows = [dict(zip(names, fact, strict=True)) for fact in facts.items()]
        return json.dumps(rows, ensure_ascii=False)
    joint = (": ", " = ", " | ")[form - 2]
    return "\n".join(f"{key}{joint}{value}" for key, value in facts.items())


def _key(rng: Random) -> str:
    return rng.choice((wild_name, wild_identifier, wild_word, invented))(rng)


def _value(rng: Random) -> str:
    if rng.random() < 0.35:
        return str(number(rng)) if rng.random() < 0.7 else f"{number(rng, 4)}.{rng.randint(1, 99)}"
    return rng.choice((wild_name, wild_identifier, wild_word, _several))(rng)


def _several(rng: Random) -> str:
    return " ".join(wild_word(rng) for _ in range(rng.randint(2, 4)))


def _distinct(draw: Callable[[Random], str], count: int, rng: Random) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[draw(rng)] = None
    return list(found)
