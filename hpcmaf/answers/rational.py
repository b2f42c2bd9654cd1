r"""Exact rational values of what is written with digits alone.

Fractions, decimals, mixed and repeating numbers, ratios and the four
operations with powers, factorials and exact roots; no variables, no
functions. Every size is bounded, so any text is answered in microseconds.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from math import factorial

_MAX_LENGTH = 400
_MAX_DEPTH = 40
_MAX_BITS = 14_000  # 4,214 digits: Python refuses to print more than 4,300
_MAX_FACTORIAL = 1000

_TOKEN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+|\\[A-Za-z]+|\*\*|\S)")
_SCIENTIFIC = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))[eE]([+-]?\d{1,4})")
_MIXED = re.compile(r"(-?)\s*(\d{1,30})\s+(\d{1,30})\s*/\s*(\d{1,30})")
_RATIO = re.compile(r"(\d{1,30})\s*:\s*(\d{1,30})")
_PERIOD = re.compile(r"(-?)(\d{0,30})\.(\d{0,30}?)\\overline\{(\d{1,30})\}")
_FACTORS = {"*", "\\cdot", "\\times", "/", "\\div"}


class _Undecided(Exception):
    pass


@lru_cache(maxsize=1 << 14)
def value_of(text: str) -> Fraction | None:
    """The exact value of a numeric text, or ``None`` where it is not one or too large."""
    text = text.strip()
    if not text or len(text) > _MAX_LENGTH or not any(character.isdigit() for character in text):
        return None
    if match := _SCIENTIFIC.fullmatch(text):
        return Fraction(match[1]) * Fraction(10) ** int(match[2])
    if (match := _MIXED.fullmatch(text)) and int(match[4]):
        value = int(match[2]) + Fraction(int(match[3]), int(match[4]))
        return -value if match[1] else value
    if (match := _RATIO.fullmatch(text)) and int(match[2]):
        return Fraction(int(match[1]), int(match[2]))
    if match := _PERIOD.fullmatch(text):
        sign, whole, fixed, period = match.groups()
        value = Fraction(f"{whole or 0}.{fixed or 0}") + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
        return -value if sign else value
    parser = _Parser(_TOKEN.findall(text))
    try:
        value = parser.sum()
    except (_Undecided, ZeroDivisionError):
        return None
    return value if parser.peek is None else None


class _Parser:
    """Recursive descent over the tokens; `_Undecided` for all that is not a number."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._position = 0
        self._depth = 0

    @property
    def peek(self) -> str | None:
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def _take(self, expected: str | None = None) -> str:
        token = self.peek
        if token is None or (expected is not None and token != expected):
            raise _Undecided
        self._position += 1
        return token

    def sum(self) -> Fraction:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _Undecided
        value = self._product()
        while self.peek in ("+", "-"):
            value += self._product()
        self._depth -= 1
        return _bounded(value)

    def _product(self) -> Fraction:
        negative = False
        while self.peek in ("+", "-"):
            negative ^= self._take() == "-"
        first = self.peek or ""
        value = self._power()
        if first.isdigit() and self.peek == "\\frac":  # 1\frac45 is one and four fifths, no product
            part = self._power()
            value = value + part if 0 < part < 1 else value * part
        while (token := self.peek) is not None:
            if token in _FACTORS:
                self._take()
                sign = -1 if self.peek == "-" and self._take() else 1
                factor = sign * self._power()
                value = value / factor if token in ("/", "\\div") else value * factor
            elif token in ("(", "{", "\\frac", "\\sqrt"):
                value *= self._power()
            else:
                break  # of two numbers side by side the second stays unread: "2 3" is no number
            value = _bounded(value)
        return -value if negative else value

    def _power(self) -> Fraction:
        base = self._atom()
        while self.peek in ("!", "^", "**"):
            if self._take() == "!":
                if base.denominator != 1 or not 0 <= base <= _MAX_FACTORIAL or self.peek == "!":
                    raise _Undecided
                base = _bounded(Fraction(factorial(int(base))))
            else:
                sign = -1 if self.peek == "-" and self._take() else 1
                self._depth += 1
                if self._depth > _MAX_DEPTH:
                    raise _Undecided
                base = _raised(base, sign * self._power())  # to the right: a^b^c is a^(b^c)
                self._depth -= 1
        return base

    def _atom(self) -> Fraction:
        token = self._take()
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return _bounded(Fraction(token.rstrip(".")))
        if token == "\\frac":
            top = self._argument()
            return top / self._argument()
        if token == "\\sqrt":
            degree = Fraction(2)
            if self.peek == "[":
                self._take()
                degree = self.sum()
                self._take("]")
            return _raised(self._atom(), 1 / degree)
        closing = {"(": ")", "{": "}"}.get(token)
        if closing is None:
            raise _Undecided
        value = self.sum()
        self._take(closing)
        return value

    def _argument(self) -> Fraction:
        r"""A group, or as in TeX a single digit: \frac43 is 4/3."""
        token = self.peek or ""
        if token.isdigit() and len(token) > 1:
            self._tokens[self._position : self._position + 1] = [token[0], token[1:]]
        elif token not in ("{", "\\frac", "\\sqrt") and not token.isdigit():
            raise _Undecided
        return self._atom()


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > _MAX_BITS or value.denominator.bit_length() > _MAX_BITS:
        raise _Undecided
    return value


def _raised(base: Fraction, exponent: Fraction) -> Fraction:
    """``base ** exponent`` where that is rational; the real root of a negative number for odd roots."""
    degree = exponent.denominator
    if degree > 64 or (base < 0 and degree % 2 == 0):
        raise _Undecided
    if degree > 1:
        top, bottom = _root(abs(base.numerator), degree), _root(base.denominator, degree)
        base = Fraction(-top if base < 0 else top, bottom)
    power = exponent.numerator
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(power) * size > 2 * _MAX_BITS and abs(base) != 1 and base:
        raise _Undecided
    return _bounded(base**power)


def _root(value: int, degree: int) -> int:
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= value else (low, middle - 1)
    if low**degree != value:
        raise _Undecided
    return low
