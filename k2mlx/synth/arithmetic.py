"""Calculator questions: from a bare `12*7` to word problems, each with the expression it means.

An operand has 1 to 7 digits, each length as likely as another, so that copying digits is learnt
apart from their number. The expression is always written one way: operands as plain digits, one
blank around an operator.
"""

from dataclasses import dataclass
from random import Random

from k2mlx.synth.arithmetic_phrases import (
    ANSWERS,
    ERROR_ANSWERS,
    NOUNS,
    OPENERS,
    PROBLEMS,
    SINGLE,
    VERB_OPENERS,
    VERBS,
    WHOLE,
)
from k2mlx.synth.phrasing import Scope, render, typed

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
# Products matter most: they are what people try first.
_OPERATIONS = ("{a} * {b}",) * 5 + ("{a} / {b}",) * 3 + ("{a} + {b}",) * 4 + ("{a} - {b}",) * 4
_OPERATIONS += ("{a} % {b}",)
_SYMBOLS = {"+": ("+", "plus"), "-": ("-", "minus"), "*": ("*", "x", "times"), "/": ("/", "÷")}


@dataclass(frozen=True)
class Sum:
    """A question, the expression that answers it, and how the answer may name the result {r}."""

    question: str
    expression: str
    answers: tuple[str, ...] = ANSWERS


def draw_sum(rng: Random) -> Sum:
    """Any calculator question."""
    kinds = [_pair] * 6 + [_single] + [_chain] * 2 + [_listed] + [_problem] * 4
    return rng.choice(kinds)(rng)


def short_sum(rng: Random) -> tuple[str, str]:
    """(noun phrase, expression) of one operation, for several sums in one question."""
    scope, written = _operands(rng)
    operation = rng.choice(_OPERATIONS)
    return render(rng.choice(NOUNS[operation]), scope, rng), _filled(operation, written)


def answer(total: Sum, result: str, rng: Random) -> str:
    """What the assistant says once the calculator has answered."""
    if result.startswith("Error"):
        return rng.choice(ERROR_ANSWERS)
    return render(rng.choice(total.answers), {"e": total.expression, "r": result}, rng)


def ask(noun: str, rng: Random) -> str:
    """A question for a noun phrase such as `12 times 7`."""
    return typed(render(rng.choice(OPENERS), {"X": noun}, rng), rng)


def number(rng: Random, longest: int = 7) -> int:
    """A positive integer whose length in digits is uniform."""
    length = rng.randint(1, longest)
    return rng.randint(1 if length == 1 else 10 ** (length - 1), 10**length - 1)


def operand(rng: Random, longest: int = 7) -> tuple[str, str]:
    """(as the user writes it, as it stands in the expression)."""
    chance = rng.random()
    if chance < 0.80:
        plain = str(number(rng, longest))
        if len(plain) > 3 and rng.random() < 0.15:
            return f"{int(plain):,}", plain
        return plain, plain
    if chance < 0.91:
        plain = f"{number(rng, 4)}.{rng.randint(1, 99):02d}" if rng.random() < 0.5 else ""
        plain = plain or f"{number(rng, 3)}.{rng.randint(1, 9)}"
        return plain, plain
    if chance < 0.95:
        plain = f"-{number(rng, 4)}"
        return plain, plain
    small = rng.randint(1, 20) if rng.random() < 0.7 else rng.randint(21, 999)
    return in_words(small), str(small)


def in_words(value: int) -> str:
    """English words of 0 to 999."""
    if value <= 20:
        return _ONES[value]
    if value < 100:
        tens, ones = divmod(value, 10)
        return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")
    hundreds, rest = divmod(value, 100)
    return f"{_ONES[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")


def _operands(rng: Random) -> tuple[Scope, Scope]:
    longest = 7 if rng.random() < 0.75 else 3
    (a, a_written), (b, b_written) = operand(rng, longest), operand(rng, longest)
    return {"a": a, "b": b}, {"a": a_written, "b": b_written}


def _pair(rng: Random) -> Sum:
    scope, written = _operands(rng)
    operation = rng.choice(_OPERATIONS)
    if operation == "{a} / {b}" and rng.random() < 0.03:
        scope["b"] = written["b"] = "0"
    expression = _filled(operation, written)
    form = rng.random()
    if form < 0.68:
        return Sum(ask(render(rng.choice(NOUNS[operation]), scope, rng), rng), expression)
    if form < 0.86:
        scope["X"] = render(rng.choice(VERBS[operation]), scope, rng)
        return Sum(typed(render(rng.choice(VERB_OPENERS), scope, rng), rng), expression)
    return Sum(typed(render(rng.choice(WHOLE[operation]), scope, rng), rng), expression)


def _single(rng: Random) -> Sum:
    operation = rng.choice(tuple(SINGLE) + ("{p} / 100 * {a}",) * 6)
    longest = {"{a} ** 3": 3, "{a} ** {k}": 2}.get(operation, 6)
    shown, written = operand(rng, longest)
    if shown.startswith("-") or not shown[0].isdigit():
        shown = written = str(number(rng, longest))
    power = rng.randint(4, 9)
    percent = str(rng.choice((rng.randint(1, 100), rng.randint(1, 999), rng.randint(1, 99) / 2)))
    percent = percent.removesuffix(".0")
    phrase = render(rng.choice(SINGLE[operation]), {"a": shown, "k": power, "p": percent}, rng)
    return Sum(ask(phrase, rng), _filled(operation, {"a": written, "k": power, "p": percent}))


def _chain(rng: Random) -> Sum:
    """Three to five operands, sometimes with one pair in parentheses."""
    count = rng.choice((3, 3, 3, 4, 5))
    longest = rng.choice((1, 2, 2, 3, 5))
    terms = [operand(rng, longest) for _ in range(count)]
    signs = [rng.choice("+-*+-*/") for _ in range(count - 1)]
    spoken = rng.random() < 0.25
    gap = "" if not spoken and rng.random() < 0.3 else " "
    opened = rng.randrange(count - 1) if rng.random() < 0.4 else None
    shown, written = "", ""
    for i, (as_shown, as_written) in enumerate(terms):
        before, after = "(" if i == opened else "", ")" if opened == i - 1 and i else ""
        shown += before + as_shown + after
        written += before + as_written + after
        if i < count - 1:
            name = rng.choice(_SYMBOLS[signs[i]][1:]) if spoken else signs[i]
            shown += f"{gap}{name}{gap}"
            written += f" {signs[i]} "
    return Sum(ask(shown, rng), written)


def _listed(rng: Random) -> Sum:
    """The sum or the average of a list."""
    longest = rng.randint(1, 5)
    terms = [operand(rng, longest) for _ in range(rng.randint(3, 6))]
    shown = ", ".join(term[0] for term in terms[:-1])
    shown += rng.choice((" and ", ", and ", " and ")) + terms[-1][0]
    total = " + ".join(term[1] for term in terms)
    if rng.random() < 0.5:
        noun = rng.choice(("average", "mean", "arithmetic mean"))
        phrase = rng.choice((f"the {noun} of {shown}", f"the {noun} of the numbers {shown}"))
        return Sum(ask(phrase, rng), f"({total}) / {len(terms)}")
    if rng.random() < 0.6:
        return Sum(ask(rng.choice(("the sum of ", "the total of ")) + shown, rng), total)
    verb = rng.choice(("add up ", "add ", "sum ", "total up ", "sum up ", "add together ")) + shown
    return Sum(typed(render(rng.choice(VERB_OPENERS), {"X": verb}, rng), rng), total)


def _problem(rng: Random) -> Sum:
    question, expression, label = rng.choice(PROBLEMS)
    scope: Scope = {}
    for name in ("d", "d2", "d3"):
        scope[name] = (
            f"{rng.randint(1, 99)}.{rng.choice(('50', '99', '95', '25', '20', '75', '40', '10'))}"
        )
    asked = typed(render(question, scope, rng), rng)
    # The result is not known yet: it stays a slot.
    label = render(label, {**scope, "r": "{r}"}, rng)
    answers = (f"That is {label}.", f"It is {label}.", f"{label}.", f"That makes {label}.")
    answers += (f"The answer is {label}.", "{e} = {r}" + label.removeprefix("{r}") + ".")
    answers += (f"It comes to {label}.", "{e} = {r}, so the answer is " + label + ".")
    return Sum(asked, _filled(expression, scope), answers)


def _filled(expression: str, values: Scope) -> str:
    for name, value in values.items():
        expression = expression.replace("{" + name + "}", str(value))
    return expression
