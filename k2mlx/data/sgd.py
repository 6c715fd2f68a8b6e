"""Schema-guided dialogues to conversations with calls, tools renamed so the schema must be read.

Each conversation draws a paraphrase of its services (SGD-X) or a naming style of its own for tools,
arguments and the keys of results. Arguments whose values are all integers or booleans become such
in the declaration, the calls and the results. Other services' tools stand by as distractors.

Source: Schema-Guided Dialogue (Rastogi et al. 2020) and SGD-X (Lee et al. 2022), CC-BY-SA 4.0.
"""

import datetime
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2mlx.data import naming
from k2mlx.data.chats import rows
from k2mlx.data.context import Context, ToolSpec, assistant, call, result, user
from k2mlx.data.sample import read_tools, tool
from k2mlx.data.schema import Conversation

BOOLEAN = {"True": True, "False": False}
DATE_FORMS = [
    "Today is {:%A, %d %B %Y}.",
    "Current date: {:%Y-%m-%d} ({:%A}).",
    "Date: {:%Y-%m-%d}",
]


@dataclass(frozen=True)
class Rename:
    """One tool as one conversation declares it: its new spec and the new names of its arguments."""

    spec: ToolSpec
    arguments: dict[str, str]

    @property
    def name(self) -> str:
        return self.spec["function"]["name"]


def sgd(path: Path, context: Context) -> Iterator[Conversation]:
    """Dialogues of `sgd_*.jsonl.xz`; `sgd_*_tools.json` and `sgd_x_ccbysa.tar.xz` lie beside it."""
    part = path.name.split("_")[1]
    tools = {
        spec["function"]["name"]: spec
        for spec in read_tools(path.with_name(f"sgd_{part}_tools.json"))
    }
    paraphrases = match_paraphrases(tools, path.with_name("sgd_x_ccbysa.tar.xz"), part)
    types = argument_types(path)
    for row in rows(path):
        renamer = Renamer(tools, paraphrases, types, context.chance)
        yield convert(row, renamer, context)


def match_paraphrases(
    tools: dict[str, ToolSpec], archive: Path, part: str
) -> dict[str, list[ToolSpec]]:
    """For each tool its SGD-X versions: they keep the order of intents and of slots."""
    order: dict[str, list[str]] = {}
    for name in tools:
        order.setdefault(name.split(".")[0], []).append(name)
    found: dict[str, list[ToolSpec]] = {name: [] for name in tools}
    for version in range(1, 6):
        versions: dict[str, list[ToolSpec]] = {}
        for spec in read_tools(archive, f"sgd_x/data/v{version}/{part}/schema.json"):
            versions.setdefault(spec["function"]["name"].split(".")[0], []).append(spec)
        for service, names in order.items():
            specs = versions.get(f"{service}{version}", [])
            for name, spec in zip(names, specs, strict=False):
                ours = tools[name]["function"]["parameters"]["properties"].values()
                theirs = spec["function"]["parameters"]["properties"].values()
                if [p.get("enum") for p in ours] == [p.get("enum") for p in theirs]:
                    found[name].append(spec)
    return found


def argument_types(path: Path) -> dict[str, str]:
    """ "integer" or "boolean" for each slot all of whose values, in every call, are such."""
    values: dict[str, set[str]] = {}
    for row in rows(path):
        for message in row["messages"]:
            for made in message.get("tool_calls", ()):
                for key, value in json.loads(made["function"]["arguments"]).items():
                    values.setdefault(key, set()).add(value)
    types = {}
    for key, seen in values.items():
        seen = seen - {"dontcare"}
        if seen and seen <= set(BOOLEAN):
            types[key] = "boolean"
        elif seen and all(value.isdigit() for value in seen):
            types[key] = "integer"
    return types


class Renamer:
    """The names and types of one conversation."""

    def __init__(
        self,
        tools: dict[str, ToolSpec],
        paraphrases: dict[str, list[ToolSpec]],
        types: dict[str, str],
        chance: random.Random,
    ):
        self._tools, self._paraphrases, self._chance = tools, paraphrases, chance
        self._types = types if chance.random() < 0.8 else {}
        self._version = chance.randrange(-1, 5)  # -1: the original words
        self._tool_style = chance.choice(naming.TOOL_STYLES)
        self._style = chance.choice(naming.ARGUMENT_STYLES)
        self._prefix = chance.random() < 0.15
        self._declared: dict[str, Rename] = {}
        self._slots: dict[str, str] = {}
        self._taken: set[str] = set()

    def tool(self, original: str) -> Rename:
        """The tool under its name in this conversation, the same each time it is asked for."""
        if original not in self._declared:
            self._declared[original] = self._rename(original)
        return self._declared[original]

    def _rename(self, original: str) -> Rename:
        function = self._tools[original]["function"]
        versions = self._paraphrases[original]
        words = function
        if 0 <= self._version < len(versions):
            words = versions[self._version]["function"]
        parts = naming.rephrase(naming.words(words["name"].split(".")[-1]), self._chance)
        if self._prefix:
            parts = [*naming.words(original.split("_")[0]), *parts]
        name = naming.unlike(self._tool_style(parts), self._taken)
        properties, names = {}, {}
        old, new = function["parameters"]["properties"], words["parameters"]["properties"]
        for key, other in zip(old, new, strict=True):
            names[key] = self._slot(key, other)
            properties[names[key]] = self._property(key, new[other])
        required = [names[key] for key in function["parameters"].get("required", [])]
        parameters = {"type": "object", "properties": properties, "required": required}
        description = words.get("description", "").split(" (")[0]
        return Rename(tool(name, description, parameters), names)

    def _slot(self, key: str, other: str) -> str:
        if key not in self._slots:
            self._slots[key] = self._style(naming.words(other))
        return self._slots[key]

    def _property(self, key: str, old: dict[str, Any]) -> dict[str, Any]:
        new = {"type": self._types.get(key, "string"), "description": old.get("description", "")}
        if "enum" in old and new["type"] == "string":
            new["enum"] = old["enum"]
        elif "enum" in old and new["type"] == "integer" and all(v.isdigit() for v in old["enum"]):
            new["enum"] = [int(value) for value in old["enum"]]
        return new

    def value(self, key: str, value: Any) -> Any:
        """An argument's value in the type that it is declared with."""
        kind = self._types.get(key)
        if kind == "boolean" and value in BOOLEAN:
            return BOOLEAN[value]
        if kind == "integer" and isinstance(value, str) and value.isdigit():
            return int(value)
        return value

    def values(self, row: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
        """Arguments or one result with new keys and typed values; a free choice is left out."""
        return {
            names.get(key) or self._slots.get(key) or self._style(naming.words(key)): self.value(
                key, value
            )
            for key, value in row.items()
            if value != "dontcare"
        }


def convert(row: dict[str, Any], renamer: Renamer, context: Context) -> Conversation:
    """One dialogue, whole; a later step cuts it to the length of a row."""
    chance = context.chance
    used = [renamer.tool(name) for name in row["tools"]]
    messages: list[dict[str, Any]] = []
    made: dict[str, tuple[dict[str, Any], Rename]] = {}
    most = chance.choice([1, 2, 3])
    dated = False
    for message in row["messages"]:
        if message["role"] == "tool":
            request, rename = made[message["tool_call_id"]]
            content = results(message["content"], renamer, rename, most)
            messages.append(result(request, content))
        elif message.get("tool_calls"):
            requests = []
            for old in message["tool_calls"]:
                rename = renamer.tool(old["function"]["name"])
                arguments = json.loads(old["function"]["arguments"])
                dated = dated or "2019-" in old["function"]["arguments"]
                text = json.dumps(renamer.values(arguments, rename.arguments), ensure_ascii=False)
                request = call(len(made), rename.name, text)
                made[old["id"]] = request, rename
                requests.append(request)
            messages.append(assistant(message["content"], *requests))
        else:
            speak = user if message["role"] == "user" else assistant
            messages.append(speak(message["content"]))
    conversation = Conversation(row["id"], messages)
    conversation.tools = with_distractors([rename.spec for rename in used], context)
    if dated:
        # Speakers say "today" and mean this day: without it no date could be right.
        form = chance.choice(DATE_FORMS)
        day = datetime.date(2019, 3, 1)
        conversation.messages.insert(0, {"role": "system", "content": form.format(day, day)})
    return conversation


def results(content: str, renamer: Renamer, rename: Rename, most: int) -> str:
    """A tool's answer with new keys: at most `most` of the rows that it found."""
    found = json.loads(content)
    if not isinstance(found, list):
        return content
    found = [renamer.values(row, rename.arguments) for row in found[:most]]
    return json.dumps(found[0] if len(found) == 1 else found, ensure_ascii=False)


def with_distractors(tools: list[ToolSpec], context: Context) -> list[ToolSpec]:
    """The tools with none to three others among them, in any order."""
    names = {spec["function"]["name"] for spec in tools}
    pool = context.others if context.chance.random() < 0.7 else context.builtin
    for spec in context.chance.sample(pool, min(len(pool), context.chance.choice([0, 0, 1, 2, 3]))):
        if spec["function"]["name"] not in names:
            names.add(spec["function"]["name"])
            tools = [*tools, spec]
    context.chance.shuffle(tools)
    return tools
