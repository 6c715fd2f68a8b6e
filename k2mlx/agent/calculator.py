"""The arithmetic behind the calculator tool: a small parser over exact fractions, never `eval`.

Grammar, loosest first (Python's precedence, so `-2 ** 2` is -4 and `2 ** 3 ** 2` is 512):
    sum     = product (("+" | "-") product)*
    product = sign (("*" | "/" | "//" | "%") sign)*
    sign    = ("+" | "-")* power
    power   = atom ("**" sign)?
    atom    = number | "(" sum ")"

Everything is a `Fraction`, so 0.1 + 0.2 is 0.3. Only a fractional exponent leaves the rationals; it
is taken to 40 digits, which is far beyond what is printed.
"""

import re
from decimal import Decimal, localcontext
from fractions import Fraction

MAX_LENGTH = 500
MAX_DEPTH = 40
MAX_DIGITS = 400
EXACT_DIGITS = 15
ROUNDED_DIGITS = 10

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)(?P<exponent>[eE][+-]?\d+)?"
    r"|(?P<operator>\*\*|//|[-+*/%()]))"
)
_SPELLINGS = str.maketrans(
    {"×": "*", "x": "*", "X": "*", "·": "*", "∙": "*", "÷": "/", "−": "-", "–": "-", "^": "**"}
)


class CalculationError(ValueError):
    """An expression that cannot be read or has no printable value; the message says which."""


def calculate(expression: str) -> str:
    """Evaluate `expression` and print the value.

    Integers are exact. Decimals are exact up to 15 significant digits and otherwise rounded to 10,
    or to the whole number where that alone is longer. `x`, `×`, `÷` and `^` are read as `*`, `*`,
    `/` and `**`; `%` is the remainder, with the sign of the divisor as in Python.

    Raises: CalculationError.
    """
    return format_number(evaluate(expression))


def evaluate(expression: str) -> Fraction:
    """The exact value of `expression`. Raises: CalculationError."""
    if len(expression) > MAX_LENGTH:
        raise CalculationError(f"the expression is longer than {MAX_LENGTH} characters")
    tokens = _tokens(expression)
    if not tokens:
        raise CalculationError("the expression is empty")
    parser = _Parser(tokens)
    value = parser.sum(0)
    if parser.next is not None:
        raise CalculationError(f"unexpected {_shown(parser.next)!r}")
    return value


def numbers(expression: str) -> list[Fraction]:
    """The number literals of `expression`, in order. Raises: CalculationError."""
    return [token for token in _tokens(expression) if isinstance(token, Fraction)]


def _tokens(expression: str) -> list[Fraction | str]:
    text = expression.translate(_SPELLINGS)
    tokens: list[Fraction | str] = []
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise CalculationError(f"cannot read {expression[at:].strip()[:20]!r}")
        if match["number"]:
            exponent = int((match["exponent"] or "e0")[1:])
            if abs(exponent) > MAX_DIGITS:
                raise CalculationError(f"the number {match[0].strip()!r} is too large or too small")
            tokens.append(Fraction(match["number"].replace(",", "")) * Fraction(10) ** exponent)
        else:
            tokens.append(match["operator"])
        at = match.end()
    return tokens


def _shown(token: Fraction | str) -> str:
    return token if isinstance(token, str) else format_number(token)


class _Parser:
    """Recursive descent over the tokens; values are computed as they are read."""

    def __init__(self, tokens: list[Fraction | str]):
        self.tokens = tokens
        self.at = 0

    @property
    def next(self) -> Fraction | str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self, *operators: str) -> str | None:
        token = self.next
        if isinstance(token, str) and token in operators:
            self.at += 1
            return token
        return None

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while operator := self.take("+", "-"):
            right = self.product(depth)
            value = _bounded(value + right if operator == "+" else value - right)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.sign(depth)
        while operator := self.take("*", "/", "//", "%"):
            right = self.sign(depth)
            if operator == "*":
                value = _bounded(value * right)
            elif right == 0:
                raise CalculationError("division by zero")
            elif operator == "/":
                value = _bounded(value / right)
            else:
                value = Fraction(value // right) if operator == "//" else value % right
        return value

    def sign(self, depth: int) -> Fraction:
        negative = False
        while operator := self.take("+", "-"):
            negative ^= operator == "-"
        value = self.power(depth)
        return -value if negative else value

    def power(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise CalculationError(f"more than {MAX_DEPTH} levels of nesting")
        base = self.atom(depth)
        return _power(base, self.sign(depth + 1)) if self.take("**") else base

    def atom(self, depth: int) -> Fraction:
        token = self.next
        if isinstance(token, Fraction):
            self.at += 1
            return token
        if self.take("("):
            value = self.sum(depth + 1)
            if not self.take(")"):
                raise CalculationError("a closing parenthesis is missing")
            return value
        if token is None:
            raise CalculationError("the expression ends where a number should be")
        raise CalculationError(f"a number should be where {token!r} is")


def _bounded(value: Fraction) -> Fraction:
    bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    if bits > MAX_DIGITS * 10 // 3:
        raise CalculationError("the result has too many digits")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if base == 0 and exponent < 0:
        raise CalculationError("division by zero")
    if exponent.denominator == 1:
        # Bounded before the power is taken: afterwards would be too late for 9 ** 9 ** 9.
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(base) != 1 and (bits - 1) * abs(exponent) > MAX_DIGITS * 10 // 3:
            raise CalculationError("the result has too many digits")
        power = exponent.numerator if abs(base) != 1 else exponent.numerator % 2
        return _bounded(base**power)
    if base < 0:
        raise CalculationError("a fractional power of a negative number is not a real number")
    if base == 0:
        return Fraction(0)
    with localcontext() as context:
        context.prec = 40
        logarithm = _decimal(base).log10() * _decimal(exponent)
        if abs(logarithm) > MAX_DIGITS:
            raise CalculationError("the result has too many digits")
        return Fraction(_decimal(base) ** _decimal(exponent))


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def format_number(value: Fraction) -> str:
    """Print a fraction as a decimal number, without an exponent unless it is below 1e-15."""
    if value.denominator == 1:
        return str(value.numerator)
    exact = _terminating(value)
    if exact is not None and len(exact.as_tuple().digits) <= EXACT_DIGITS:
        return plain(exact)
    with localcontext() as context:
        context.prec = max(ROUNDED_DIGITS, len(str(abs(value.numerator) // value.denominator)))
        return plain(_decimal(value))


def _terminating(value: Fraction) -> Decimal | None:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return None
    with localcontext() as context:
        context.prec = 8 * MAX_DIGITS
        return _decimal(value).normalize()


def plain(number: Decimal) -> str:
    """A decimal without trailing zeros; 0.00001 rather than 1E-5, down to 1e-15."""
    if number and number.adjusted() < -15:
        mantissa, exponent = f"{number:e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text
