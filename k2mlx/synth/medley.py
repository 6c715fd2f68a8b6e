"""Many small questions in one conversation: for a declaration of 230 tokens, eight answers to learn
from instead of one. Half of k2-nano's training time went into reading declarations without it."""

from random import Random

from k2mlx.synth.chat import converse
from k2mlx.synth.mixed import ask_one
from k2mlx.synth.single_turn import opened
from k2mlx.synth.talk import Talk
from k2mlx.synth.toolbox import Toolbox

_TALK_FILES: tuple[tuple[str, ...], ...] = (("numbers", "remarks"),) * 2 + (("everyday",), ())
_REMARK_FILES = (("numbers", "remarks"),) * 4 + (("everyday",), ("people",), ())


def medley(rng: Random) -> Talk:
    """Five to ten unrelated turns: questions for the three tools, and remarks that need none."""
    box = Toolbox(rng)
    talk = opened(box)
    for _ in range(rng.randint(5, 10)):
        if rng.random() < 0.25:
            converse(talk, 1, rng, files=rng.choice(_TALK_FILES))
        else:
            ask_one(talk, box)
    return talk


def remarks(rng: Random) -> Talk:
    """Eight to fourteen turns of which most need no tool, the first ones above all: what keeps a
    model that has seen many calls from answering every number with one."""
    box = Toolbox(rng)
    talk = opened(box)
    for turn in range(rng.randint(8, 14)):
        if rng.random() < (0.75 if turn < 2 else 0.55):
            converse(talk, 1, rng, files=rng.choice(_REMARK_FILES))
        else:
            ask_one(talk, box)
    return talk
