"""What no training conversation may contain: a tenth of all tool calls, and every wording of
`wording.py`."""

import functools
import re

from k2mlx.agent.heldout import is_held_out_call, is_held_out_value
from k2mlx.eval import wording

HELD_OUT_TEMPLATES: frozenset[str] = frozenset(
    [
        *wording.CALCULATOR,
        *(question for question, _ in wording.PROBLEMS),
        *wording.CLOCK,
        *wording.CLOCK_DATE,
        *wording.CLOCK_DAY,
        *wording.UNITS,
        *(question for questions in wording.UNITS_BY_KIND.values() for question in questions),
        *wording.NONE,
    ]
)

_SLOT = r"\{\w\}"
_NUMBER = r"-?[\d,.]*\d"
# A computation has a digit; a place has at most five words, a unit three.
_SLOTS = {
    "x": r".*\d.*",
    "p": r"\S+(?: \S+){0,4}",
    "a": r"\S+(?: \S+){0,2}",
    "b": r"\S+(?: \S+){0,2}",
}


def matches_held_out_template(text: str) -> bool:
    """Whether a user's turn is worded like a held-out question, whatever its values and case."""
    return _matcher().fullmatch(_plain(text)) is not None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" ?!.")


@functools.cache
def _matcher() -> re.Pattern[str]:
    patterns = []
    for template in sorted(HELD_OUT_TEMPLATES):
        plain = _plain(template)
        parts = re.split(f"({_SLOT})", plain)
        patterns.append(
            "".join(
                _SLOTS.get(part[1], _NUMBER) if re.fullmatch(_SLOT, part) else re.escape(part)
                for part in parts
            )
        )
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


__all__ = [
    "HELD_OUT_TEMPLATES",
    "is_held_out_call",
    "is_held_out_value",
    "matches_held_out_template",
]
