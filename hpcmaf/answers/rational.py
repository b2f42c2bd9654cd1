r"""Exact rational values of what is written with digits alone.

LaTeX becomes a Python expression, whose tree is worked out in fractions. Every
size is bounded, so any text is answered in about a millisecond.
"""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction
from functools import lru_cache
from math import factorial

_MAX_LENGTH = 400
_MAX_BITS = 14_000  # 4,214 digits: Python refuses to print more than 4,300
_ONLY = re.compile(r"(?:[\d\s.+*/^!(){}-]|\\(?:frac|cdot|times|div)(?![A-Za-z]))+")
_SCIENTIFIC = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))[eE]([+-]?\d{1,4})")
_RATIO = re.compile(r"(\d{1,30})\s*:\s*(\d{1,30})")
_PERIOD = re.compile(r"(-?\d*)\.(\d*?)\\overline\{(\d{1,30})\}")
_STEPS = [
    (re.compile(pattern), target)
    for pattern, target in (
        (r"\\(?:cdot|times)", "*"),
        (r"\\div", "/"),
        (r"\^", "**"),
        (r"\\frac\s*(\d)", r"\\frac{\1}"),  # as in TeX: \frac43 is 4/3
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"(?<![\d.)}])(?<!\d\s)(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])", r"(\1+\2/\3)"),  # 1 4/5
        (r"(?<![\d.)}*])(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}", r"(\1+\2/\3)"),  # 1\frac45
    )
]
_GROUPS = (
    (re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"(?<![a-z}])\{([^{}]*)\}"), r"(\1)"),
)
_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


@lru_cache(maxsize=1 << 14)
def value_of(text: str) -> Fraction | None:
    """The exact value of a numeric text, or ``None`` where it is not one or too large."""
    text = text.strip()
    if len(text) > _MAX_LENGTH or not re.search(r"\d", text):
        return None
    try:
        if match := _SCIENTIFIC.fullmatch(text):
            return _bounded(Fraction(match[1]) * Fraction(10) ** int(match[2]))
        if match := _RATIO.fullmatch(text):
            return Fraction(int(match[1]), int(match[2]))
        if match := _PERIOD.fullmatch(text):
            whole, fixed, period = match.groups()
            part = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
            return Fraction(f"{whole or 0}.{fixed or 0}") + (-part if whole.startswith("-") else part)
        return _worked(ast.parse(_python(text), mode="eval").body) if _ONLY.fullmatch(text) else None
    except (ValueError, ArithmeticError, SyntaxError, RecursionError, MemoryError):
        return None


def _python(text: str) -> str:
    for pattern, target in _STEPS:
        text = pattern.sub(target, text)
    before = ""
    while before != text:
        before = text
        for pattern, target in _GROUPS:
            text = pattern.sub(target, text)
    text = re.sub(r"(?<=[\d)])\s*(?=\()", "*", text)
    text = re.sub(r"(?<![\d.])(\d{1,3})!(?!!)", lambda match: str(factorial(int(match[1]))), text)
    text = re.sub(r"\d*\.\d+|\d+\.", lambda match: "({}/{})".format(*Fraction(match[0]).as_integer_ratio()), text)
    return re.sub(r"(?<!\d)0+(?=\d)", "", text).strip()


def _worked(tree: ast.expr) -> Fraction:
    match tree:
        case ast.Constant(value=int(value)):
            return _bounded(Fraction(value))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            return -_worked(operand) if isinstance(sign, ast.USub) else _worked(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base, power = _worked(left), _worked(right)
            size = max(base.numerator.bit_length(), base.denominator.bit_length()) if abs(base) != 1 else 0
            if power.denominator == 1 and abs(power) * size <= 2 * _MAX_BITS:
                return _bounded(base**power.numerator)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATIONS:
            return _bounded(_OPERATIONS[type(sign)](_worked(left), _worked(right)))
    raise ValueError


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > _MAX_BITS or value.denominator.bit_length() > _MAX_BITS:
        raise ValueError
    return value
