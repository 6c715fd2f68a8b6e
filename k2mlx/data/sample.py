"""The text that the vocabulary is learned from: a fixed sample of lines of what training reads.

Kinds of part: "text" (a text source's documents), "messages" (conversations: what is said and the
call arguments), "tools" (tool declarations, as K2 renders them). Held-out documents are never in
the sample.
"""

import json
import random
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from k2mlx.data.corpus import TextSource, held_out, open_lines, usable
from k2mlx.errors import ConfigError


@dataclass(frozen=True)
class SamplePart:
    """`share` of the lines are kept; 2.5 means all of them twice and half of them once more."""

    kind: str
    share: float
    text: str | None = None  # kind "text": the name of a [[text]] source
    path: str | None = None  # other kinds: a file under the source folder
    member: str = "*.json"  # kind "tools": which members of a .tar.xz


def compact(tools: object) -> str:
    """JSON as K2's prompt declares tools: no spaces, keys sorted at every depth."""
    return json.dumps(tools, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def tool(name: str, description: str, parameters: dict) -> dict:
    """A tool in OpenAI form."""
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def read_tools(path: Path, member: str = "*.json") -> list[dict]:
    """Reads tools in OpenAI form.

    Knows a JSON object name -> tool, MCP's `tools.json` lists and SGD-X's `schema.json`.
    `path` is a .json file, or a .tar.xz of which the members that match `member` are read.
    """
    if path.suffix == ".json":
        with open_lines(path) as file:
            return _tools(json.load(file))
    found: list[dict] = []
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such source file; check the path in the data recipe or --source."
        )
    with tarfile.open(path) as archive:
        for info in sorted(archive.getmembers(), key=lambda info: info.name):
            if info.isfile() and fnmatch(info.name, member):
                file = archive.extractfile(info)
                assert file is not None
                found += _tools(json.load(file))
    return found


def _tools(value: object) -> list[dict]:
    rows = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(rows, list):
        return []
    found = []
    for row in rows:
        if not isinstance(row, dict):
            continue
        if row.get("type") == "function":
            found.append(row)
        elif "inputSchema" in row:
            found.append(tool(row["name"], row.get("description", ""), row["inputSchema"]))
        elif "intents" in row:
            found += [_intent(row, intent) for intent in row["intents"]]
    return found


def _intent(service: dict, intent: dict) -> dict:
    """An intent of a schema-guided-dialogue service as a tool."""
    slots = {slot["name"]: slot for slot in service["slots"]}
    properties = {}
    for name in [*intent["required_slots"], *intent["optional_slots"]]:
        slot = slots[name]
        properties[name] = {"type": "string", "description": slot["description"]}
        if slot["is_categorical"]:
            properties[name]["enum"] = slot["possible_values"]
    parameters = {"type": "object", "properties": properties, "required": intent["required_slots"]}
    return tool(f"{service['service_name']}.{intent['name']}", intent["description"], parameters)


def _conversation_lines(path: Path) -> Iterator[str]:
    with open_lines(path) as lines:
        for line in lines:
            conversation = json.loads(line)
            if held_out(conversation["id"]):
                continue
            for message in conversation["messages"]:
                yield from (message.get("content") or "").split("\n")
                for call in message.get("tool_calls", ()):
                    yield call["function"]["arguments"]


def _lines(part: SamplePart, texts: dict[str, TextSource], folder: Path) -> Iterator[str]:
    if part.kind == "text":
        if part.text not in texts:
            raise ConfigError(
                f"vocabulary sample: no [[text]] source is called {part.text!r}; "
                f"got {sorted(texts)}."
            )
        for document in usable(texts[part.text], folder):
            if not held_out(document.id):
                yield from document.text.split("\n")
    elif part.path is None:
        raise ConfigError(f"vocabulary sample: a part of kind {part.kind!r} needs a path.")
    elif part.kind == "messages":
        yield from _conversation_lines(folder / part.path)
    elif part.kind == "tools":
        for one in read_tools(folder / part.path, part.member):
            yield compact(one)
    else:
        raise ConfigError(
            f"vocabulary sample: expected kind text, messages or tools, got {part.kind!r}."
        )


def sample(
    parts: Iterable[SamplePart],
    texts: dict[str, TextSource],
    folder: Path,
    builtin: Iterable[dict] = (),
) -> Iterator[str]:
    """Yields each part's share of lines, then the built-in tools, which most chats declare."""
    for part in parts:
        chance = random.Random(f"{part.kind}:{part.text or part.path}")
        for line in _lines(part, texts, folder):
            times = int(part.share) + (chance.random() < part.share % 1)
            for _ in range(times if line else 0):
                yield line
    declared = [compact(one) for one in builtin]
    for _ in range(300):
        yield from declared
