"""`k2mlx eval calls`: any function-calling set, scored on the first assistant turn.

One case a line:

    {"id": "...", "messages": [...], "tools": [...], "order": false,
     "gold": [{"name": "...", "arguments": {"arg": [accepted values, ...]}}]}

`gold` is the calls of the one turn that answers the messages; an empty list means that no call is
right. `order` may be left out. `matching.py` says when a call is right.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2mlx.chat import CallEnd, Event, Text, check_messages, check_tools
from k2mlx.errors import RequestError
from k2mlx.eval.matching import match_calls
from k2mlx.fields import want

# What one assistant turn is asked with: (messages, tools) -> its events.
Ask = Callable[[list[dict[str, Any]], list[dict[str, Any]]], Iterable[Event]]


@dataclass(frozen=True)
class Case:
    """One line of the file, checked."""

    id: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    gold: list[dict[str, Any]]
    order: bool

    @property
    def kind(self) -> str:
        """ "none", "one" or "several": how many calls are right."""
        return ("none", "one", "several")[min(len(self.gold), 2)]


@dataclass(frozen=True)
class Outcome:
    """What the model did with a case. problem is None when that was right."""

    case: Case
    calls: list[dict[str, Any]]
    text: str
    problem: str | None

    def to_json(self) -> dict[str, Any]:
        """A line for a file of outcomes."""
        made = {"calls": self.calls, "text": self.text, "problem": self.problem}
        return {"id": self.case.id, "right": self.problem is None, **made, "gold": self.case.gold}


def read_cases(path: str | Path) -> list[Case]:
    """The cases of a JSONL file; empty lines are skipped.

    Raises: RequestError with the line's number for anything that is not a case.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"{path}: cannot be read ({reason}); wanted a JSONL file") from error
    cases = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                cases.append(_read_case(line, f"line-{number}"))
            except RequestError as error:
                raise RequestError(f"{path} line {number}: {error}") from error
    if not cases:
        raise RequestError(f"{path}: no cases in it, wanted one JSON object a line")
    return cases


def evaluate(
    cases: Sequence[Case], ask: Ask, on_outcome: Callable[[Outcome], None] | None = None
) -> list[Outcome]:
    """Ask the model each case and score its turn.

    A case that cannot be asked (longer than the model's context) is wrong and says why.
    """
    outcomes = []
    for case in cases:
        outcome = _outcome(case, ask)
        outcomes.append(outcome)
        if on_outcome:
            on_outcome(outcome)
    return outcomes


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """{"accuracy", "n", "right", "by_calls": {"none" | "one" | "several": {"accuracy", "n"}}}."""
    kinds = sorted({outcome.case.kind for outcome in outcomes})
    groups = {kind: [o for o in outcomes if o.case.kind == kind] for kind in kinds}
    return {
        "accuracy": _accuracy(outcomes),
        "n": len(outcomes),
        "right": sum(outcome.problem is None for outcome in outcomes),
        "by_calls": {
            kind: {"accuracy": _accuracy(group), "n": len(group)} for kind, group in groups.items()
        },
    }


def _accuracy(outcomes: Sequence[Outcome]) -> float:
    return round(sum(o.problem is None for o in outcomes) / len(outcomes), 4)


def _outcome(case: Case, ask: Ask) -> Outcome:
    try:
        events = list(ask(case.messages, case.tools))
    except RequestError as error:
        return Outcome(case, [], "", f"could not be asked: {error}")
    text = "".join(event.text for event in events if isinstance(event, Text))
    ends = [event for event in events if isinstance(event, CallEnd)]
    calls = [{"name": end.name, "arguments": _arguments(end)} for end in ends]
    broken = next((end.error for end in ends if end.error), None)
    problem = match_calls(calls, case.gold, case.tools, order=case.order)
    return Outcome(case, calls, text, problem or broken)


def _arguments(end: CallEnd) -> Any:
    """The arguments as JSON, or as the text that they are."""
    try:
        return json.loads(end.arguments)
    except (ValueError, RecursionError):
        return end.arguments


def _read_case(line: str, name: str) -> Case:
    try:
        case = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not JSON ({error})") from error
    want(isinstance(case, dict), "the line", case, "a JSON object")
    for key in ("messages", "gold"):
        want(key in case, key, "nothing", "a list")
    messages, tools = case["messages"], case.get("tools") or []
    check_messages(messages)
    check_tools(tools)
    want(len(messages) > 0, "messages", messages, "at least one message")
    tools = [
        tool if "function" in tool else {"type": "function", "function": tool} for tool in tools
    ]
    order = case.get("order", False)
    want(isinstance(order, bool), "order", order, "true or false")
    gold = case["gold"]
    want(isinstance(gold, list), "gold", gold, "a list of calls")
    for index, call in enumerate(gold):
        _check_gold(call, f"gold[{index}]")
    return Case(str(case.get("id", name)), messages, tools, gold, order)


def _check_gold(call: Any, at: str) -> None:
    want(isinstance(call, dict), at, call, '{"name": ..., "arguments": {...}}')
    name, arguments = call.get("name"), call.get("arguments")
    want(isinstance(name, str) and name, f"{at}.name", name, "the function's name")
    want(isinstance(arguments, dict), f"{at}.arguments", arguments, "an object")
    for key, accepted in arguments.items():
        good = isinstance(accepted, list)
        want(good, f"{at}.arguments.{key}", accepted, "a list of accepted values")
