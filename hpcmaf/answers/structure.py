r"""What an answer in the one spelling is made of: its exact value, its elements, its label.

Tuples, sets, intervals, unions and lists are taken apart here, so that ``(1,2)``, ``\{1,2\}`` and ``[1,2)`` stay apart
and their elements are compared like any other answers.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from math import inf

_MAX_LENGTH = 400
_MAX_BITS = 14_000  # 4,214 digits: Python refuses to print more than 4,300
_ARITHMETIC = re.compile(r"[\d\s+*/()-]+")


def _period(match: re.Match[str]) -> str:
    whole, fixed, period = match.groups()
    return f"({whole or 0}.{fixed or 0}+{int(period)}/{(10 ** len(period) - 1) * 10 ** len(fixed)})"


# How LaTeX's numbers are written in Python.
_STEPS = [
    (re.compile(pattern), target)
    for pattern, target in (
        (r"\A([+-]?(?:\d+\.?\d*|\.\d+))[eE]([+-]?\d{1,4})\Z", r"(\1*10**\2)"),
        (r"\A(\d{1,30})\s*:\s*(\d{1,30})\Z", r"(\1/\2)"),
        (r"(\d*)\.(\d*?)\\overline\{(\d{1,30})\}", _period),
        (r"\\(?:cdot|times)(?![A-Za-z])", "*"),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\^", "**"),
        (r"\\frac\s*(\d)", r"\\frac{\1}"),  # as in TeX: \frac43 is 4/3
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"(?<![\d.)}])(?<!\d\s)(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])", r"(\1+\2/\3)"),  # 1 4/5
        (r"(?<![\d.)}*])(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}", r"(\1+\2/\3)"),  # 1\frac45
        *3 * ((r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))"), (r"(?<![a-z}])\{([^{}]*)\}", r"(\1)")),
        (r"(?<=[\d)])\s*(?=\()", "*"),
        (r"\d*\.\d+|\d+\.", lambda match: "({}/{})".format(*Fraction(match[0]).as_integer_ratio())),
        (r"(?<!\d)0+(?=\d)", ""),
    )
]
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_BOTH = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")
_OPEN = frozenset({"(", "[", "{", "\\{", "\\langle"})
_CLOSE = frozenset({")", "]", "}", "\\}", "\\rangle"})
AND, OR = (re.compile(rf"(?<![A-Za-z\\]){word}(?![A-Za-z])") for word in ("and", "or"))
_SIGNS = frozenset({"<", ">", "\\le", "\\ge", "\\ne", "="})
CONDITION = re.compile(r"\\\{\s*[A-Za-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?[|:](.*)\\\}", re.DOTALL)  # of a set
# Left of "=" stand names, with arguments, indices, bars and brackets, and nothing that is worked out.
_NAME_PARTS = re.compile(
    r"_\s*(?:\{[^{}]*\}|\w)|\^\s*\{?\s*(?:-1|\\prime|\\circ)\s*\}?|(?<![A-Za-z])[A-Zfghpqr]'*(?:\^\{-1\})?\([^()]*\)|'|\\[{}|]"
    r"|\\(?:(?:measured)?angle|triangle|over(?:line|rightarrow)|vec|(?:wide)?hat|bar|det|text|frac|sin|cos|tan|max|min|gcd|lcm|cup|cap"
    r"|alpha|beta|gamma|delta|epsilon|theta|lambda|mu|sigma|tau|phi|omega|rho|Delta|Omega)(?![A-Za-z])"
)
_NAME = re.compile(r"[A-Za-z{}()\[\]|,:/\s.;]*[A-Za-z][A-Za-z{}()\[\]|,:/\s.;]*")


def split(text: str) -> tuple[str, tuple[str, ...]] | None:
    """Kind and elements of a compound answer; ``None`` for a single expression.

    The kind is ``set`` (also of a list), in which no order counts, a pair of brackets such as ``[)``, or ``series`` (a
    list that goes on).
    """
    text = text.strip()
    if CONDITION.fullmatch(text) or relations(text) - {"="} and len(top_level(text, (",", ";"))) == 1:
        return None
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    depths = [depth for _, depth in _levels(text)]
    encloses = 0 not in depths[:-1] and depths[-1:] == [0]  # half-open intervals count
    if opening in ("(", "[", "\\{") and closing in (")", "]", "\\}") and encloses:
        parts = top_level(text[len(opening) : -len(closing)], (",", ";"))
        if opening == "\\{" and closing == "\\}":
            return _listed(parts)
        return (opening + closing, parts) if len(parts) > 1 else None
    parts = _elements(text)
    return _listed(parts) if len(parts) > 1 or _BOTH.search(text) else None


def label(text: str) -> tuple[str, str] | None:
    r"""``x = 5``, ``f(2) = 5``, ``x \in [0, 1]`` and ``1 + 1 = 2`` as what is named and its value.

    What is worked out (``1 + 1``) has the empty name. ``None`` without a label, for an equation and a list of several.
    """
    sides = top_level(text, ("=", "\\in"))
    if len(sides) < 2 or text.rstrip().endswith("=") or (len(sides) > 2 and len(_elements(text)) > 1):
        return None
    name, value = sides[0], sides[-1]
    if _is_name(name):
        return "".join(name.split()), value
    if len(sides) == 2 and _is_name(value) and value_of(name) is not None:
        return "".join(value.split()), name
    bound = re.search(r"\\(?:sum|prod|lim|int)(?![A-Za-z])", name)
    return ("", value) if bound or not re.search(r"[A-Za-z]", re.sub(r"\\[a-z]+", "", name)) else None


def relations(text: str) -> set[str]:
    """The signs of equality and order outside of all brackets."""
    return {token for token, depth in _levels(text) if depth == 0 and token in _SIGNS}


def nesting(text: str) -> float:
    """How deep brackets stand in one another; infinite where they do not match."""
    depths = [0, *(depth for _, depth in _levels(text))]
    return inf if depths[-1] or min(depths) < 0 else max(depths)


def top_level(text: str, separators: tuple[str, ...]) -> tuple[str, ...]:
    """Split at separators that no bracket encloses."""
    parts = [""]
    for token, depth in _levels(text):
        if depth == 0 and token in separators:
            parts.append("")
        else:
            parts[-1] += token
    return tuple(part.strip() for part in parts if part.strip())


def _levels(text: str) -> Iterator[tuple[str, int]]:
    """Tokens, and how many brackets are open behind each."""
    depth = 0
    for token in _TOKEN.findall(text):
        depth += (token in _OPEN) - (token in _CLOSE)
        yield token, depth


def _elements(text: str) -> tuple[str, ...]:
    return top_level(OR.sub(",", AND.sub(",", text)), (",", ";"))


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(_NAME_PARTS.sub("N", text)) is not None and len(text) <= 60


def _listed(parts: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    r"""A set; ``1 \pm a`` is two of its elements."""
    expanded = tuple(
        _BOTH.sub(lambda sign: signs[sign[0] == "\\mp"], part)
        for part in parts
        for signs in (("+-", "-+") if _BOTH.search(part) else ("",))
    )
    return "series" if any("\\ldots" in part for part in parts) else "set", expanded


@lru_cache(maxsize=1 << 14)
def value_of(text: str) -> Fraction | None:
    """The exact rational value of what is written with digits alone, ``None`` where it is something else or too large.

    LaTeX becomes a Python expression, whose tree is worked out in fractions, in about a millisecond.
    """
    text = text.strip()
    if len(text) > _MAX_LENGTH or not re.search(r"\d", text):
        return None
    for pattern, target in _STEPS:
        text = pattern.sub(target, text)
    try:
        value = _worked(ast.parse(text.strip(), mode="eval").body) if _ARITHMETIC.fullmatch(text) else None
    except (ValueError, LookupError, ArithmeticError, SyntaxError, RecursionError, MemoryError):
        return None
    return value if value is None or max(map(int.bit_length, value.as_integer_ratio())) <= _MAX_BITS else None


def _power(base: Fraction, power: Fraction) -> Fraction:
    size = max(base.numerator.bit_length(), base.denominator.bit_length()) if abs(base) != 1 else 0
    if power.denominator != 1 or abs(power) * size > 2 * _MAX_BITS:
        raise ValueError
    return base**power.numerator


_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_OPERATIONS |= {ast.Pow: _power, ast.USub: operator.neg, ast.UAdd: operator.pos}


def _worked(tree: ast.expr) -> Fraction:
    match tree:
        case ast.Constant(value=int(value)):
            return Fraction(value)
        case ast.UnaryOp(op=sign, operand=operand):
            return _OPERATIONS[type(sign)](_worked(operand))
        case ast.BinOp(left=left, op=sign, right=right):
            return _OPERATIONS[type(sign)](_worked(left), _worked(right))
    raise ValueError
