r"""The parts of an answer that is more than one expression.

Tuples, sets, intervals, unions, lists, matrices, labels and inequalities:
taken apart here, so that ``(1,2)``, ``\{1,2\}`` and ``[1,2)`` stay apart and
their elements are compared like any other answers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hpcmaf.answers.rational import value_of

_MATRIX = re.compile(
    r"[(\[]?\s*\\begin\s*\{(?P<kind>[pbvBV]?matrix|array)\}(?:\s*\{[lcr|\s]*\})?(?P<body>.*)\\end\s*\{(?P=kind)\}\s*[)\]]?", re.DOTALL
)
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_OPEN = frozenset({"(", "[", "{", "\\{", "\\langle"})
_CLOSE = frozenset({")", "]", "}", "\\}", "\\rangle"})
_AND = re.compile(r"(?<![A-Za-z\\])and(?![A-Za-z])")
_OR = re.compile(r"(?<![A-Za-z\\])or(?![A-Za-z])")
_SIGNS = {"<": "<", ">": ">", "\\le": "<=", "\\ge": ">=", "\\ne": "!="}
_VARIABLE = re.compile(r"(?:[A-Za-z]|\\[a-z]+)(?:_\{?\w\}?)?")
_BUILDER = re.compile(r"\\\{\s*(?P<name>[A-Za-z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?[|:]\s*(?P<rest>.*)\\\}", re.DOTALL)
# What may be left of "=" without being worked out: names, with arguments, indices, bars and brackets.
_NAME_PARTS = re.compile(
    r"_\s*(?:\{[^{}]*\}|\w)|\^\s*\{?\s*(?:-1|\\prime|\\circ)\s*\}?|(?<![A-Za-z])[A-Zfghpqr]'*(?:\^\{-1\})?\([^()=]*\)|'"
    r"|\\(?:angle|measuredangle|triangle|over(?:line|rightarrow)|vec|hat|widehat|bar|det|text|frac|sin|cos|tan|max|min|gcd|lcm"
    r"|alpha|beta|gamma|delta|epsilon|theta|lambda|mu|sigma|tau|phi|omega|rho|Delta|Omega)(?![A-Za-z])"
)
_NAME = re.compile(r"[A-Za-z{}()\[\]|,:/\s.;]*[A-Za-z][A-Za-z{}()\[\]|,:/\s.;]*")


@dataclass(frozen=True, slots=True)
class Structure:
    """A compound answer.

    Attributes
    ----------
    kind
        ``set`` (also of a list: order does not matter), ``union``, a pair of brackets such as ``[)``, ``:`` (a
        ratio or time of three parts or more), ``series`` (a list that goes on) or ``matrix RxC`` (rows by columns).
    parts
        Texts of the elements, matrices row by row.
    name
        The variable of an inequality, which is read as an interval.
    """

    kind: str
    parts: tuple[str, ...]
    name: str | None = None

    @property
    def ordered(self) -> bool:
        """Whether the elements' order is part of the answer."""
        return self.kind not in ("set", "union")


def split(text: str) -> Structure | None:
    """Take a compound answer apart; ``None`` for a single expression."""
    text = text.strip()
    if (match := _MATRIX.fullmatch(text)) and "\\begin" not in match["body"]:
        rows = [row.split("&") for row in re.sub(r"\\\\\s*$", "", match["body"].strip()).split("\\\\")]
        if len({len(row) for row in rows}) == 1:
            kind = "determinant" if match["kind"] in ("vmatrix", "Vmatrix") else "matrix"
            return Structure(f"{kind} {len(rows)}x{len(rows[0])}", tuple(cell for row in rows for cell in row))
    if text == "\\mathbb{R}":
        return Structure("()", ("-\\infty", "\\infty"))
    if (match := _BUILDER.fullmatch(text)) and (found := _interval(match["rest"])) and found.name == match["name"]:
        return Structure(found.kind, found.parts)
    if (found := _interval(text)) is not None:
        return found
    if len(pieces := top_level(text, ("\\cup",))) > 1:
        return Structure("union", pieces)
    alternatives = [_interval(piece) for piece in top_level(_OR.sub("\\\\cup ", text), ("\\cup",))]
    if len(alternatives) > 1 and all(alternatives) and len({found.name for found in alternatives if found}) == 1:
        return Structure("union", tuple(_text(found) for found in alternatives if found), alternatives[0].name)  # type: ignore[union-attr]
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    if opening in ("(", "[", "\\{") and closing in (")", "]", "\\}") and _encloses(text):
        parts = top_level(text[len(opening) : -len(closing)], (",", ";"))
        if opening == "\\{" and closing == "\\}":
            return _listed(parts)
        return Structure(opening + closing, parts) if len(parts) > 1 else None
    parts = top_level(_OR.sub(",", _AND.sub(",", text)), (",", ";"))
    if len(parts) > 1 or "\\pm" in text or "\\mp" in text:
        return _listed(parts)
    terms = top_level(text, (":",))
    return Structure(":", terms) if len(terms) > 2 else None


def label(text: str) -> tuple[str, str] | None:
    r"""``x = 5``, ``f(2) = 5``, ``x \in [0, 1]`` and ``1 + 1 = 2`` as what is named and its value.

    Returns
    -------
    tuple or None
        ``None`` without a label, for an equation and for a list of several. What is worked out
        (``1 + 1``) has the empty name.
    """
    sides = top_level(text, ("=", "\\in"))
    if len(sides) < 2 or text.rstrip().endswith("=") or (len(sides) > 2 and len(top_level(_OR.sub(",", _AND.sub(",", text)), (",", ";"))) > 1):
        return None
    name, value = sides[0], sides[-1]
    if _is_name(name):
        return "".join(name.split()), value
    if len(sides) == 2 and _is_name(value) and value_of(name) is not None:
        return "".join(value.split()), name
    bound = re.search(r"\\(?:sum|prod|lim|int)(?![A-Za-z])", name)
    closed = bound or not re.search(r"[A-Za-z]", re.sub(r"\\[a-z]+", "", name))
    return ("", value) if closed else None


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(_NAME_PARTS.sub("N", text)) is not None and len(text) <= 60


def relations(text: str) -> tuple[str, ...]:
    """The signs of equality and order outside of all brackets."""
    depth, found = 0, []
    for token in _TOKEN.findall(text):
        depth += (token in _OPEN) - (token in _CLOSE)
        if depth == 0 and (token == "=" or token in _SIGNS):
            found.append(_SIGNS.get(token, "="))
    return tuple(found)


def top_level(text: str, separators: tuple[str, ...]) -> tuple[str, ...]:
    """Split at separators that no bracket encloses."""
    parts: list[str] = []
    current: list[str] = []
    depth = 0
    for token in _TOKEN.findall(text):
        depth += (token in _OPEN) - (token in _CLOSE)
        if depth == 0 and token in separators:
            parts.append("".join(current).strip())
            current = []
        else:
            current.append(token)
    parts.append("".join(current).strip())
    return tuple(part for part in parts if part)


def _interval(text: str) -> Structure | None:
    """An inequality in one variable as an interval; ``None`` for anything else."""
    signs = [sign for sign in relations(text) if sign != "="]
    sides = top_level(text, tuple(_SIGNS))
    if "=" in text or not 1 <= len(signs) <= 2 or len(sides) != len(signs) + 1 or "," in text or "|" in text:
        return None
    if len(signs) == 1 and not _VARIABLE.fullmatch(sides[0]):  # 3 > x as x < 3
        sides, signs = sides[::-1], [signs[0].translate(str.maketrans("<>", "><"))]
    if len(signs) == 2 and signs[0][0] == signs[1][0] == ">":
        sides, signs = sides[::-1], [sign.replace(">", "<") for sign in signs[::-1]]
    name = sides[len(signs) - 1]
    bounds = [side for side in sides if side is not name]
    if not _VARIABLE.fullmatch(name) or any(re.search(r"(?<![\\A-Za-z])[A-Za-z]", bound) for bound in bounds):
        return None
    if len(signs) == 2:
        if [sign[0] for sign in signs] != ["<", "<"]:
            return None
        return Structure("[("[signs[0] == "<"] + "])"[signs[1] == "<"], tuple(bounds), name)
    (bound,) = bounds
    match signs[0]:
        case "!=":
            return Structure("union", (f"(-\\infty, {bound})", f"({bound}, \\infty)"), name)
        case "<" | "<=":
            return Structure("(" + "])"[signs[0] == "<"], ("-\\infty", bound), name)
        case _:
            return Structure("[("[signs[0] == ">"] + ")", (bound, "\\infty"), name)


def _text(interval: Structure) -> str:
    return f"{interval.kind[0]}{', '.join(interval.parts)}{interval.kind[1]}" if interval.kind != "union" else " \\cup ".join(interval.parts)


def _listed(parts: tuple[str, ...]) -> Structure:
    return Structure("series" if any("\\ldots" in part for part in parts) else "set", _expand_signs(parts))


def _encloses(text: str) -> bool:
    """Whether the first bracket is closed by the last one; half-open intervals count."""
    depth = 0
    tokens = _TOKEN.findall(text)
    for position, token in enumerate(tokens):
        depth += (token in _OPEN) - (token in _CLOSE)
        if depth == 0 and token in _CLOSE:
            return position == len(tokens) - 1
    return False


def _expand_signs(parts: tuple[str, ...]) -> tuple[str, ...]:
    r"""``1 \pm a`` is the two elements ``1 + a`` and ``1 - a``."""
    expanded: list[str] = []
    for part in parts:
        if re.search(r"\\(?:pm|mp)(?![A-Za-z])", part):
            for plus, minus in (("+", "-"), ("-", "+")):
                chosen = re.sub(r"\\pm(?![A-Za-z])", plus, part)
                expanded.append(re.sub(r"\\mp(?![A-Za-z])", minus, chosen))
        else:
            expanded.append(part)
    return tuple(expanded)
