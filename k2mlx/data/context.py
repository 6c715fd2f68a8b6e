"""What a conversion of dialogues may draw on: chance, tools to declare, a calculator."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from k2mlx.data.schema import Conversation

ToolSpec = dict[str, Any]

SYSTEM_PROMPTS = [
    "You are k2-nano, a small Kimi K2 language model.",
    "You are k2-nano, a small Kimi K2 that runs on this computer. Answer briefly.",
    "You are k2-nano, a small and friendly assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer in one or two sentences.",
    "You are a friendly assistant who likes to chat.",
    "Be brief and kind.",
]


@dataclass
class Context:
    """`builtin` are the tools that come with k2mlx; `others` are real tools to stand beside them.

    `calculate` evaluates an arithmetic expression as the calculator tool does.
    """

    chance: random.Random
    builtin: list[ToolSpec] = field(default_factory=list)
    others: list[ToolSpec] = field(default_factory=list)
    calculate: Callable[[str], str] = str

    def some_tools(self) -> list[ToolSpec]:
        """The built-in tools, or some others, or both: to declare in a talk that needs none."""
        chance = self.chance
        kind = chance.random()
        tools = list(self.builtin) if kind < 0.6 else []
        if kind >= 0.6 or kind < 0.1:
            tools += chance.sample(self.others, min(len(self.others), chance.randint(1, 3)))
        names = [tool["function"]["name"] for tool in tools]
        tools = [tool for i, tool in enumerate(tools) if names[i] not in names[:i]]
        if chance.random() < 0.5:
            chance.shuffle(tools)
        return tools

    def furnish(self, conversation: Conversation, tools: float, system: float) -> Conversation:
        """Declares tools that nobody calls and adds a system prompt, each with a probability."""
        if self.chance.random() < tools:
            conversation.tools = self.some_tools()
        if self.chance.random() < system:
            prompt = {"role": "system", "content": self.chance.choice(SYSTEM_PROMPTS)}
            conversation.messages.insert(0, prompt)
        return conversation


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str | None, *calls: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = list(calls)
    return message


def call(number: int, name: str, arguments: str) -> dict[str, Any]:
    """A call with K2's id: `number` counts the calls of the conversation from 0."""
    function = {"name": name, "arguments": arguments}
    return {"id": f"functions.{name}:{number}", "type": "function", "function": function}


def result(made: dict[str, Any], content: str) -> dict[str, Any]:
    """The tool message that answers a call."""
    name = made["function"]["name"]
    return {"role": "tool", "tool_call_id": made["id"], "name": name, "content": content}


def merge_turns(messages: list[dict[str, Any]], joint: str = " ") -> list[dict[str, Any]]:
    """Joins neighbouring messages of the same role."""
    merged: list[dict[str, Any]] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            joined = merged[-1]["content"] + joint + message["content"]
            merged[-1] = {**merged[-1], "content": joined}
        else:
            merged.append(message)
    return merged
