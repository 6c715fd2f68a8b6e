"""`k2mlx eval tools`: the held-out questions, asked of a model that has the three builtin tools.

Every case is a whole turn with the agent loop, the clock stopped at `questions.NOW`:

- calls_accuracy: of the questions that need a tool, those with one call, the right one
- answer_accuracy: of the same questions, those whose last text says the result. A wrong call gives
  a wrong result, so this counts both mistakes; answer_accuracy_after_right_call counts the second
- false_call_rate: of the turns that need no tool, those with a call
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from k2mlx.agent.loop import ToolResult
from k2mlx.agent.tools import Tool, builtin_tools
from k2mlx.chat import CallEnd, Event, Text
from k2mlx.errors import RequestError
from k2mlx.eval.questions import NOW, PATH, Case
from k2mlx.eval.scoring import right_answer, right_call

MAX_ROUNDS = 3

# What a turn is run with: (messages, tools, number of the case) -> its events.
Run = Callable[[list[dict[str, Any]], dict[str, Tool], int], Iterable[Event | ToolResult]]


@dataclass(frozen=True)
class Outcome:
    """What the model did with a case. right_answer is None where no tool is needed."""

    case: Case
    calls: list[tuple[str, str]]
    text: str
    right_call: bool
    right_answer: bool | None

    @property
    def right(self) -> bool:
        """Whether nothing about it was wrong."""
        return self.right_call and self.right_answer is not False

    def to_json(self) -> dict[str, Any]:
        """A line for a file of outcomes."""
        calls = [{"name": name, "arguments": arguments} for name, arguments in self.calls]
        right = {"right_call": self.right_call, "right_answer": self.right_answer}
        return {**self.case, "calls": calls, "text": self.text, **right}


def evaluate(
    cases: Sequence[Case], run: Run, on_outcome: Callable[[Outcome], None] | None = None
) -> list[Outcome]:
    """Run every case and score it."""
    outcomes = []
    for number, case in enumerate(cases):
        tools = builtin_tools(lambda: NOW)
        try:
            events = list(run([dict(message) for message in case["messages"]], tools, number))
        except RequestError:  # the turn outgrew the context: wrong, and the next one may fit
            events = []
        outcome = score(case, events)
        outcomes.append(outcome)
        if on_outcome:
            on_outcome(outcome)
    return outcomes


def score(case: Case, events: Sequence[Event | ToolResult]) -> Outcome:
    """Score the events of one turn."""
    calls = [(event.name, event.arguments) for event in events if isinstance(event, CallEnd)]
    text = ""
    for event in events:
        if isinstance(event, ToolResult):
            text = ""  # what was said before the result cannot be the answer
        elif isinstance(event, Text):
            text += event.text
    gold = case["gold"]
    if gold is None:
        return Outcome(case, calls, text, right_call=not calls, right_answer=None)
    question = case["messages"][-1]["content"]
    called = len(calls) == 1 and right_call(question, gold, *calls[0])
    asked = any(name == gold["name"] for name, _ in calls)
    answered = asked and right_answer(case["kind"], case["answer"], text)
    return Outcome(case, calls, text, called, answered)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures, overall and by kind; None where there was nothing to count."""
    asked = [outcome for outcome in outcomes if outcome.case["gold"] is not None]
    idle = [outcome for outcome in outcomes if outcome.case["gold"] is None]
    kinds = list(dict.fromkeys(outcome.case["kind"] for outcome in asked))
    groups = {kind: [o for o in asked if o.case["kind"] == kind] for kind in kinds}
    right_calls = [outcome for outcome in asked if outcome.right_call]
    return {
        "calls_accuracy": _share(o.right_call for o in asked),
        "answer_accuracy": _share(o.right_answer for o in asked),
        "answer_accuracy_after_right_call": _share(o.right_answer for o in right_calls),
        "false_call_rate": _share(not o.right_call for o in idle),
        "n_questions": len(asked),
        "n_no_tool": len(idle),
        "by_kind": {
            kind: {
                "n": len(group),
                "calls_accuracy": _share(o.right_call for o in group),
                "answer_accuracy": _share(o.right_answer for o in group),
            }
            for kind, group in groups.items()
        },
    }


def table(figures: dict[str, Any]) -> str:
    """The summary for a terminal."""
    lines = [f"{'':14}{'n':>6}{'right call':>12}{'right answer':>14}"]
    total = {**figures, "n": figures["n_questions"]}
    for name, row in [*figures["by_kind"].items(), ("all", total)]:
        calls, answers = _percent(row["calls_accuracy"]), _percent(row["answer_accuracy"])
        lines.append(f"{name:14}{row['n']:>6}{calls:>12}{answers:>14}")
    rate = _percent(figures["false_call_rate"])
    lines.append(f"{'no tool':14}{figures['n_no_tool']:>6}   called one anyway: {rate}")
    return "\n".join(lines)


def questions_hash() -> str:
    """sha256 of the committed questions, which a figure should be quoted with."""
    return hashlib.sha256(PATH.read_bytes()).hexdigest()


def _share(flags: Iterable[Any]) -> float | None:
    flags = [bool(flag) for flag in flags]
    return round(sum(flags) / len(flags), 4) if flags else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
