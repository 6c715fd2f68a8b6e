"""Names of tools and arguments in random styles, so that a model learns to read the declaration."""

import random
import re

WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

SYNONYMS = {
    "find": ["find", "search", "look up", "get", "list", "query"],
    "search": ["search", "find", "look up", "get", "query"],
    "lookup": ["look up", "find", "search", "get"],
    "get": ["get", "fetch", "find", "show", "retrieve"],
    "check": ["check", "get", "show", "read"],
    "book": ["book", "reserve", "schedule", "make"],
    "reserve": ["reserve", "book", "make"],
    "buy": ["buy", "purchase", "order", "get"],
    "schedule": ["schedule", "book", "arrange"],
    "play": ["play", "start", "stream"],
    "transfer": ["transfer", "send", "move"],
    "add": ["add", "create", "insert", "new"],
}


def words(name: str) -> list[str]:
    """`FindShops`, `find_shops` and `findShops` all give ["find", "shops"]."""
    return [word.lower() for word in WORDS.findall(name)]


def snake(parts: list[str]) -> str:
    return "_".join(parts)


def camel(parts: list[str]) -> str:
    return parts[0] + "".join(part.capitalize() for part in parts[1:])


def pascal(parts: list[str]) -> str:
    return "".join(part.capitalize() for part in parts)


def kebab(parts: list[str]) -> str:
    return "-".join(parts)


# Snake case is what most declarations in the wild have.
TOOL_STYLES = [snake, snake, snake, camel, camel, pascal, kebab]
ARGUMENT_STYLES = [snake, snake, snake, camel]


def rephrase(parts: list[str], chance: random.Random) -> list[str]:
    """Replaces a first verb that is known by one of its synonyms."""
    if parts and parts[0] in SYNONYMS:
        return [*chance.choice(SYNONYMS[parts[0]]).split(), *parts[1:]]
    return parts


def unlike(name: str, taken: set[str]) -> str:
    """`name`, or with a number after it if it is taken; the result is taken from then on."""
    candidate, number = name, 2
    while candidate in taken:
        candidate = f"{name}{number}"
        number += 1
    taken.add(candidate)
    return candidate
