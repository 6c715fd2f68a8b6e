"""The grammar that the phrase tables are written in.

    [a|b|]      one of the alternatives, each as likely as the other (the last one here is empty)
    {slot}      a value of the scope; if absent, drawn from the word list of that name (less digits)
    {slot:kind} the same, drawn from the word list `kind`; `{n:3..12}` draws an integer
    {=slot:v}   nothing is written, but the scope gets slot = v (what the wording implies)
    <...>       an optional part, kept half of the time

A table is any list of such templates; `render` turns one into text and leaves the drawn values in
the scope, so that the answer can use what the question said.
"""

import re
from functools import cache
from random import Random

from k2mlx.synth.words import draw

Scope = dict[str, object]
# Text, ("slot", name, kind), ("set", name, value), ("one", branches) or ("maybe", nodes).
Node = str | tuple

KEEP_OPTIONAL = 0.5
_INTEGER_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)$")


def render(template: str, scope: Scope, rng: Random) -> str:
    """Write out one template; draws missing slots into `scope`."""
    out: list[str] = []
    _write(_parsed(template), scope, rng, out)
    return "".join(out)


def slots(template: str) -> set[str]:
    """Names of all slots a template may use, in optional parts too."""
    return set(re.findall(r"\{=?(\w+)", template))


def sentence(text: str) -> str:
    """Mend what filling in leaves: articles, double blanks, capitals that start sentences."""
    text = _articles(text)
    return re.sub(r"(^|[.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)


def typed(text: str, rng: Random) -> str:
    """A user's hand: mostly neat, sometimes without capital or full stop, rarely with more.

    Never touches anything inside the text, so that values can be copied from it.
    """
    text = _articles(text)
    chance = rng.random()
    if chance < 0.72:
        return text[:1].upper() + text[1:]
    if chance < 0.85:
        return text
    if chance < 0.97:
        # The dot of `Washington D.C.` stays.
        text = re.sub(r"(?<!\.\w)[?.!]$", "", text)
        return text if chance < 0.92 else text[:1].upper() + text[1:]
    return text + rng.choice(["?", "!", " :)", "..", " pls", " thx"])


def joined(parts: list[str], rng: Random, before: str = "") -> str:
    """`a and b`, `a, b and c`; `before` stands in front of each part but the first."""
    rest = [before + part for part in parts[1:]]
    if not rest:
        return parts[0]
    joint = rng.choice((" and ", " and ", ", and ")) if len(rest) > 1 else " and "
    return ", ".join([parts[0], *rest[:-1]]) + joint + rest[-1]


def _articles(text: str) -> str:
    """`a(n) owl` -> `an owl`, and no double blanks."""
    if "a(n)" in text.lower():
        text = re.sub(r"\b(a)\(n\) (?=[aeiou])", r"\1n ", text, flags=re.IGNORECASE)
        text = re.sub(r"\b(a)\(n\) ", r"\1 ", text, flags=re.IGNORECASE)
    return re.sub(r" {2,}", " ", text).strip()


@cache
def _parsed(template: str) -> tuple[Node, ...]:
    nodes, end = _sequence(template, 0, "")
    assert end == len(template), f"unbalanced template: {template!r} stops at {end}"
    return nodes


def _sequence(text: str, at: int, closing: str) -> tuple[tuple[Node, ...], int]:
    nodes: list[Node] = []
    plain = at
    while at < len(text):
        mark = text[at]
        if mark in closing:
            break
        if mark not in "[{<":
            at += 1
            continue
        if at > plain:
            nodes.append(text[plain:at])
        if mark == "{":
            end = text.index("}", at)
            nodes.append(_slot(text[at + 1 : end]))
            at = end + 1
        elif mark == "<":
            inner, end = _sequence(text, at + 1, ">")
            assert end < len(text), f"missing > in {text!r}"
            nodes.append(("maybe", inner))
            at = end + 1
        else:
            branches = []
            while True:
                inner, end = _sequence(text, at + 1, "|]")
                assert end < len(text), f"missing ] in {text!r}"
                branches.append(inner)
                at = end
                if text[end] == "]":
                    break
            nodes.append(("one", tuple(branches)))
            at += 1
        plain = at
    if at > plain:
        nodes.append(text[plain:at])
    return tuple(nodes), at


def _slot(inner: str) -> Node:
    name, _, kind = inner.partition(":")
    if name.startswith("="):
        return ("set", name[1:], kind)
    return ("slot", name, kind or name.rstrip("0123456789"))


def _write(nodes: tuple[Node, ...], scope: Scope, rng: Random, out: list[str]) -> None:
    for node in nodes:
        if isinstance(node, str):
            out.append(node)
        elif node[0] == "slot":
            if node[1] not in scope:
                scope[node[1]] = _value(node[2], scope, rng)
            out.append(str(scope[node[1]]))
        elif node[0] == "set":
            scope[node[1]] = node[2]
        elif node[0] == "one":
            _write(rng.choice(node[1]), scope, rng, out)
        elif rng.random() < KEEP_OPTIONAL:
            _write(node[1], scope, rng, out)


def _value(kind: str, scope: Scope, rng: Random) -> object:
    span = _INTEGER_RANGE.match(kind)
    if span:
        return rng.randint(int(span[1]), int(span[2]))
    for _ in range(8):
        # Two slots of one list ({city}, {city2}) should differ.
        value = draw(kind, rng)
        if "{" in value or "[" in value:
            value = render(value, {}, rng)
        if value not in scope.values():
            break
    return value
