"""Word problems, read from `problems.txt`: a question, the expression it means, the answer's noun.

A line is `question => expression => noun`; `#` starts a comment. The operands of an expression
stand in the order in which the question names them, except where the operator decides (`-`, `/`);
a percentage is `{p} / 100 * {a}`.
"""

from functools import lru_cache
from pathlib import Path

PATH = Path(__file__).parent / "problems.txt"


@lru_cache(maxsize=1)
def problems() -> tuple[tuple[str, str, str], ...]:
    """All word problems as (question, expression, noun), templates of `phrasing`."""
    found = []
    for line in PATH.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            question, expression, noun = line.split(" => ")
            found.append((question, expression, noun))
    return tuple(found)
