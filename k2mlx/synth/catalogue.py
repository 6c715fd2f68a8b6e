"""The hand-written tool universe: reads `tools/*.txt`.

@ names          function names, synonyms separated by blanks; each block is one tool
: descriptions   separated by |
- names kind : descriptions     one parameter; names separated by |, a ? after them = optional.
               The first name is its slot in the phrases. Kinds: str LIST, strs LIST (an array),
               int lo..hi, num lo..hi (sometimes decimal), num_m (always), ints, nums (arrays),
               bool (set by {=name:true}), enum a,b,c, enum_int 1,2,3
> phrase         a whole request       ! phrase   an imperative      ~ phrase   a noun phrase
? request / question / reply           a required value is missing, so the assistant asks
= key kind ; key kind                  the result: a word list, lo..hi, 'literal or $slot
< answer | answer                      what is said after the result
"""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).parent / "tools"


@dataclass
class Parameter:
    """One parameter of a tool; `names[0]` is its slot in the phrases."""

    names: tuple[str, ...]
    kind: str
    values: str
    optional: bool
    descriptions: tuple[str, ...]


@dataclass
class Template:
    """One tool with its phrases, as (mark, phrase) with mark in ">!~"."""

    domain: str
    names: tuple[str, ...]
    descriptions: tuple[str, ...] = ()
    parameters: list[Parameter] = field(default_factory=list)
    phrases: list[tuple[str, str]] = field(default_factory=list)
    missing: list[tuple[str, str, str]] = field(default_factory=list)
    result: tuple[tuple[str, str], ...] = ()
    answers: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def templates() -> tuple[Template, ...]:
    """Every tool of the universe."""
    found: list[Template] = []
    for path in sorted(FOLDER.glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            mark, rest = line[0], line[1:].strip()
            if mark == "@" and rest.startswith("+"):
                tool = next(t for t in found if t.names[0] == rest[1:].strip())
            elif mark == "@":
                tool = Template(path.stem, tuple(rest.split()))
                found.append(tool)
            else:
                _read(tool, mark, rest)
    return tuple(found)


def _read(tool: Template, mark: str, rest: str) -> None:
    if mark == ":":
        tool.descriptions = _split(rest, "|")
    elif mark == "-":
        tool.parameters.append(_parameter(rest))
    elif mark in ">!~":
        tool.phrases.append((mark, rest))
    elif mark == "?":
        request, question, reply = _split(rest, " / ")
        tool.missing.append((request, question, reply))
    elif mark == "=":
        tool.result = tuple(
            (pair[0], pair[1]) for pair in (p.split(None, 1) for p in _split(rest, ";"))
        )
    elif mark == "<":
        tool.answers = _split(rest, " | ")
    else:
        raise AssertionError(f"{tool.names[0]}: unknown mark {mark!r} before {rest!r}")


def _parameter(rest: str) -> Parameter:
    head, _, described = rest.partition(" : ")
    names, kind, values = [*head.split(None, 2), ""][:3]
    optional = names.endswith("?")
    return Parameter(
        tuple(names.rstrip("?").split("|")), kind, values, optional, _split(described, "|")
    )


def _split(text: str, mark: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(mark) if part.strip())
