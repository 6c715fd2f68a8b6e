"""Word lists for the slots of the phrase tables, read from `words/*.txt`.

A line is `kind: a, b, c`; a line `kind; a; b; c` separates by semicolons (for values with commas).
"""

from functools import lru_cache
from pathlib import Path
from random import Random

FOLDER = Path(__file__).parent / "words"


@lru_cache(maxsize=1)
def lists() -> dict[str, tuple[str, ...]]:
    """All word lists by kind."""
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(FOLDER.glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            split = min((line.find(mark), mark) for mark in ":;" if mark in line)[1]
            kind, _, rest = line.partition(split)
            items = rest.split("," if split == ":" else ";")
            assert kind not in found, f"{path.name}: word list {kind} defined twice"
            found[kind] = tuple(item.strip() for item in items if item.strip())
    return found


def draw(kind: str, rng: Random) -> str:
    """One word of a list.

    Raises: AssertionError for a kind that no list defines: a mistake in a table.
    """
    options = lists().get(kind)
    assert options, f"no word list {kind!r} in {FOLDER}"
    return rng.choice(options)
