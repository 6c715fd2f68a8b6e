"""Sums with the calculator (GSM8K) and the choice of a tool, or of none (MetaTool)."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from k2mlx.data import naming
from k2mlx.data.chats import members
from k2mlx.data.context import Context, ToolSpec, assistant, call, result, user
from k2mlx.data.corpus import held_out
from k2mlx.data.sample import tool
from k2mlx.data.schema import Conversation

MARK = re.compile(r"<<([^=<>]+)=([^<>]+)>>")
SUM = re.compile(r"[\d.+\-*/() ]*[+\-*/][\d.+\-*/() ]*")
FINAL = [
    "The answer is {}.",
    "{}.",
    "That makes {}.",
    "The result is {}.",
    "It comes to {}.",
    "So the answer is {}.",
]


def gsm8k(path: Path, context: Context) -> Iterator[Conversation]:
    """Word problems whose worked steps become calls of the calculator, one after the other.

    Only problems of at most four steps whose marks are true, as the calculator computes them.
    """
    [(_, text)] = members(path, r"train\.jsonl$")
    for number, line in enumerate(text.splitlines()):
        row = json.loads(line)
        steps = MARK.findall(row["answer"])
        final = row["answer"].rsplit("####", 1)[-1].strip().replace(",", "")
        if held_out(f"gsm8k:{number}") or not 1 <= len(steps) <= 4:
            continue
        answers = [worked(expression, context) for expression, _ in steps]
        if all(answers) and same(answers[-1], final):
            yield sums(f"gsm8k:{number}", row["question"], steps, context)


def worked(expression: str, context: Context) -> str | None:
    """The calculator's answer if it can do the sum."""
    if not SUM.fullmatch(expression):
        return None
    answer = context.calculate(expression)
    return None if answer.startswith("Error") else answer


def same(answer: str | None, expected: str) -> bool:
    try:
        return abs(float(answer or "nan") - float(expected)) < 1e-6
    except ValueError:
        return False


def sums(
    row_id: str, question: str, steps: list[tuple[str, str]], context: Context
) -> Conversation:
    chance = context.chance
    spaced = chance.random() < 0.6
    messages = [user(question)]
    answer = ""
    for number, (expression, _) in enumerate(steps):
        expression = re.sub(r"\s*([+\-*/])\s*", r" \1 " if spaced else r"\1", expression.strip())
        request = call(number, "calculator", json.dumps({"expression": expression}))
        answer = context.calculate(expression)
        messages += [assistant(None, request), result(request, answer)]
    messages.append(assistant(chance.choice(FINAL).format(answer)))
    calculator = [t for t in context.builtin if t["function"]["name"] == "calculator"]
    others = [t for t in context.builtin if t not in calculator]
    tools = calculator + (others if chance.random() < 0.6 else [])
    return Conversation(row_id, messages, tools)


NO_TOOL = [
    "I don't have a tool for that.",
    "I'm sorry, I don't have a tool that can do that.",
    "Sorry, none of my tools can do that.",
    "None of the tools I have can help with that.",
    "I can't do that: I have no tool for it.",
    "I'm afraid I can't help with that, because I have no tool for it.",
    "That is something I cannot do with the tools I have.",
    "My tools don't cover that, sorry.",
    "I would need a tool for that, and I don't have one.",
    "Unfortunately I have no tool for this.",
]
ARGUMENTS = ["query", "request", "text", "input", "question", "message", "prompt"]
DESCRIBED = [
    "What the user asks for, in the user's own words",
    "The user's request, word for word",
    "The full text of the request",
]


def metatool(path: Path, context: Context, limit: int = 3000) -> Iterator[Conversation]:
    """Queries with the tool that serves them among others, or with others only.

    The tool takes the request in the user's own words, as MetaTool gives no arguments. With the
    right tool left out, the answer says that there is none.
    """
    chance = context.chance
    files = dict(members(path, r"(big_tool_des|plugin_des|all_clean_data)\.\w+$"))
    by_file = {name.rsplit("/", 1)[-1]: text for name, text in files.items()}
    about = {**json.loads(by_file["plugin_des.json"]), **json.loads(by_file["big_tool_des.json"])}
    asked = [
        (row["Query"].strip(), row["Tool"])
        for row in csv.DictReader(io.StringIO(by_file["all_clean_data.csv"]))
        if row["Tool"] in about and 15 < len(row["Query"]) < 250
    ]
    for number, (query, right) in enumerate(chance.sample(asked, min(limit, len(asked)))):
        if held_out(f"metatool:{query}"):
            continue
        others = chance.sample(sorted(set(about) - {right}), chance.randint(1, 4))
        names = [right, *others] if (has_it := chance.random() < 0.5) else others
        style = chance.choice(naming.TOOL_STYLES)
        taken: set[str] = set()
        specs = [declare(name, about[name], style, taken, context) for name in names]
        messages: list[dict[str, Any]] = [user(query)]
        if has_it:
            function = specs[0]["function"]
            [argument] = function["parameters"]["properties"]
            text = json.dumps({argument: query}, ensure_ascii=False)
            messages.append(assistant(None, call(0, function["name"], text)))
        else:
            messages.append(assistant(chance.choice(NO_TOOL)))
        chance.shuffle(specs)
        yield Conversation(f"metatool:{number}", messages, specs)


def declare(name: str, about: str, style: Any, taken: set[str], context: Context) -> ToolSpec:
    argument = context.chance.choice(ARGUMENTS)
    described = {"type": "string", "description": context.chance.choice(DESCRIBED)}
    parameters = {"type": "object", "properties": {argument: described}, "required": [argument]}
    name = naming.unlike(style(naming.words(name)), taken)
    return tool(name, about[:200].strip(), parameters)
