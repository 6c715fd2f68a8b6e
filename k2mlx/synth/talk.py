"""Builds one conversation in OpenAI form, with the call ids that the chat format counts."""

import hashlib
import json
from dataclasses import dataclass, field

from k2mlx.synth.phrasing import sentence


@dataclass(frozen=True)
class Call:
    """One tool call and what the tool answered."""

    name: str
    arguments: dict[str, object]
    result: str


@dataclass
class Talk:
    """A conversation being written; `tools` are OpenAI specs in the order of declaration."""

    tools: list[dict] = field(default_factory=list)
    messages: list[dict] = field(default_factory=list)
    calls: int = 0

    def system(self, text: str) -> None:
        self.messages.append({"role": "system", "content": text})

    def user(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        self.copy(sentence(text))

    def copy(self, text: str) -> None:
        """An answer as it stands: a sentence's capital would spoil what is copied."""
        self.messages.append({"role": "assistant", "content": text})

    def call(self, *calls: Call, text: str = "") -> None:
        """The assistant calls (several calls in one turn are parallel), then every tool answers."""
        made, results = [], []
        for call in calls:
            identity = f"functions.{call.name}:{self.calls}"
            self.calls += 1
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            function = {"name": call.name, "arguments": arguments}
            made.append({"id": identity, "type": "function", "function": function})
            results.append({"role": "tool", "tool_call_id": identity, "content": call.result})
        self.messages.append({"role": "assistant", "content": text, "tool_calls": made})
        self.messages += results

    def record(self, kind: str) -> dict:
        """The line of the JSONL file; its id is a hash of the content."""
        body = json.dumps([self.messages, self.tools], ensure_ascii=False)
        digest = hashlib.sha256(body.encode()).hexdigest()[:16]
        return {"id": f"synth-{kind}-{digest}", "messages": self.messages, "tools": self.tools}
