"""Conversations on disk: one JSON object a line, `{"id", "messages", "tools"?}`, in OpenAI's form.

Roles are system, user, assistant and tool. An assistant message may have `tool_calls`; a tool
message answers one of them by `tool_call_id`. A message with `"loss": false` is never learned.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from k2mlx.data.corpus import open_lines
from k2mlx.errors import ConfigError

ROLES = ("system", "user", "assistant", "tool")


@dataclass
class Conversation:
    id: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> str:
        row: dict[str, Any] = {"id": self.id, "messages": self.messages}
        if self.tools:
            row["tools"] = self.tools
        return json.dumps(row, ensure_ascii=False)


class Problem(Exception):
    """What is wrong with one conversation: where, what was got, what was wanted."""


def read_conversations(path: Path) -> Iterator[Conversation]:
    """Yields the checked conversations of a .jsonl or .jsonl.xz file; empty lines are skipped.

    Raises: ConfigError with the line number and the place in the line.
    """
    with open_lines(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield parse_conversation(json.loads(line))
            except json.JSONDecodeError as error:
                raise ConfigError(
                    f"{path}:{number}: not JSON ({error}); got {line[:60].strip()!r}."
                ) from error
            except Problem as problem:
                raise ConfigError(f"{path}:{number}: {problem}") from problem


def write_conversations(path: Path, conversations: Iterable[Conversation]) -> int:
    """Writes conversations as JSONL; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, conversation in enumerate(conversations, 1):  # noqa: B007
            file.write(conversation.to_json() + "\n")
    return count


def parse_conversation(row: Any) -> Conversation:
    """Checks one conversation. Raises Problem."""
    _want(isinstance(row, dict), "the line", row, 'an object {"id", "messages", "tools"?}')
    unknown = set(row) - {"id", "messages", "tools"}
    _want(not unknown, "the line", sorted(unknown), "no keys but id, messages and tools")
    _want(isinstance(row.get("id"), str) and row["id"], "id", row.get("id"), "a string")
    messages = row.get("messages")
    _want(isinstance(messages, list) and messages, "messages", messages, "a list of messages")
    declared = _declared(row.get("tools") or [])
    waiting: list[str] = []  # ids of calls that no tool message has answered yet
    for index, message in enumerate(messages):
        waiting = _check_message(message, f"messages[{index}]", declared, waiting)
    _want(
        any(message["role"] == "assistant" for message in messages),
        "messages",
        [message["role"] for message in messages],
        "an assistant message to learn from",
    )
    return Conversation(row["id"], messages, row.get("tools") or [])


def _declared(tools: Any) -> set[str]:
    _want(isinstance(tools, list), "tools", tools, "a list of tools")
    names: list[str] = []
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        _want(isinstance(name, str) and name, f"tools[{index}].function.name", name, "a string")
        names.append(str(name))
    repeated = sorted({name for name in names if names.count(name) > 1})
    _want(not repeated, "tools", repeated, "every name once")
    return set(names)


def _check_message(message: Any, at: str, declared: set[str], waiting: list[str]) -> list[str]:
    _want(isinstance(message, dict), at, message, '{"role": ..., "content": ...}')
    role, content = message.get("role"), message.get("content")
    _want(role in ROLES, f"{at}.role", role, "one of " + ", ".join(ROLES))
    calls = message.get("tool_calls") or []
    _want(not calls or role == "assistant", f"{at}.tool_calls", calls, f"none from a {role}")
    empty = content is None and calls
    _want(isinstance(content, str) or empty, f"{at}.content", content, "a string")
    if role == "tool":
        answered = message.get("tool_call_id")
        _want(answered in waiting, f"{at}.tool_call_id", answered, f"one of {waiting}")
        return [call_id for call_id in waiting if call_id != answered]
    _want(not waiting, at, role, f"a tool message that answers {waiting}")
    return [
        _check_call(call, f"{at}.tool_calls[{number}]", declared)
        for number, call in enumerate(calls)
    ]


def _check_call(call: Any, at: str, declared: set[str]) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    _want(isinstance(function, dict), at, call, '{"id": ..., "function": {"name", "arguments"}}')
    assert function is not None
    name, arguments = function.get("name"), function.get("arguments")
    _want(name in declared, f"{at}.function.name", name, f"a declared tool {sorted(declared)}")
    _want(isinstance(arguments, str), f"{at}.function.arguments", arguments, "JSON text")
    try:
        value = json.loads(arguments)
    except ValueError:
        value = None
    _want(isinstance(value, dict), f"{at}.function.arguments", arguments, "a JSON object")
    _want(isinstance(call.get("id"), str), f"{at}.id", call.get("id"), "a string")
    return call["id"]


def _want(good: Any, at: str, got: Any, wanted: str) -> None:
    if not good:
        shown = repr(got)
        raise Problem(f"{at}: expected {wanted}, got {shown[:77] + (shown[77:] and '...')}.")
