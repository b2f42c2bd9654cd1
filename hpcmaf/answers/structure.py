r"""The parts of an answer that is more than one expression.

Tuples, sets, intervals, unions, lists, matrices, equations: split here, so
that ``(1,2)``, ``\{1,2\}`` and ``[1,2)`` stay apart and their elements are
compared like any other answers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MATRIX = re.compile(
    r"\\begin\s*\{(?P<kind>[pbvBV]?matrix|array)\}(?:\s*\{[lcr|\s]*\})?(?P<body>.*)\\end\s*\{(?P=kind)\}", re.DOTALL
)
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_OPEN = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\langle": "\\rangle"}
_CLOSE = frozenset(_OPEN.values())
_WORD_SEPARATOR = re.compile(r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
# What is set: a variable, \angle ABC, f(x), a word; nothing that is worked out, as in x + y = 5.
_SETTING = re.compile(
    r"(?P<name>[^=\d+*/^<>,{}-]{1,40}?(?:_\{?\w\}?)?)\s*(?:=|\\in(?![A-Za-z]))(?P<value>[^=]*)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Structure:
    """A compound answer.

    Attributes
    ----------
    kind
        ``list`` and ``set`` (order does not matter), ``union``, a pair of
        brackets such as ``[)``, ``:`` (a ratio or time of three parts or more), or ``matrix RxC`` (rows by columns).
    parts
        Texts of the elements, matrices row by row.
    """

    kind: str
    parts: tuple[str, ...]

    @property
    def ordered(self) -> bool:
        """Whether the elements' order is part of the answer."""
        return self.kind not in ("list", "set", "union")


def split(text: str) -> Structure | None:
    """Take a compound answer apart; ``None`` for a single expression."""
    text = text.strip()
    if text.startswith(("[\\begin", "(\\begin", "[ \\begin", "( \\begin")) and text.endswith(("]", ")")):
        text = text[1:-1].strip()
    if (match := _MATRIX.fullmatch(text)) is not None and "\\begin" not in match["body"]:
        rows = [row.split("&") for row in re.sub(r"\\\\\s*$", "", match["body"].strip()).split("\\\\")]
        if len({len(row) for row in rows}) == 1:
            kind = "determinant" if match["kind"] in ("vmatrix", "Vmatrix") else "matrix"
            return Structure(f"{kind} {len(rows)}x{len(rows[0])}", tuple(cell for row in rows for cell in row))
    pieces = _top_level(text, ("\\cup",))
    if len(pieces) > 1:
        return Structure("union", pieces)
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    if opening in ("(", "[", "\\{") and closing in (")", "]", "\\}") and _encloses(text):
        inner = text[len(opening) : -len(closing)]
        parts = _top_level(inner, (",", ";"))
        if opening == "\\{" and closing == "\\}":
            return Structure("set", _expand_signs(parts))
        if len(parts) > 1:
            return Structure(opening + closing, parts)
        return None
    parts = _expand_signs(_top_level(_WORD_SEPARATOR.sub(",", text), (",", ";")))
    if len(parts) > 1:
        return Structure("list", parts)
    terms = _top_level(text, (":",))
    return Structure(":", terms) if len(terms) > 2 else None


def setting(text: str) -> tuple[str, str] | None:
    r"""``x = 5`` and ``x \in [0, 1]`` as ``("x", "5")``; ``None`` for anything else."""
    match = _SETTING.fullmatch(text)
    if match is None or not match["value"].strip() or not re.search(r"[A-Za-z]", match["name"]):
        return None
    return "".join(match["name"].split()), match["value"].strip()


def _top_level(text: str, separators: tuple[str, ...]) -> tuple[str, ...]:
    """Split at separators that no bracket encloses."""
    parts: list[str] = []
    current: list[str] = []
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in _OPEN:
            depth += 1
        elif token in _CLOSE:
            depth -= 1
        if depth == 0 and token in separators:
            parts.append("".join(current).strip())
            current = []
        else:
            current.append(token)
    parts.append("".join(current).strip())
    return tuple(part for part in parts if part)


def _encloses(text: str) -> bool:
    """Whether the first bracket is closed by the last one; half-open intervals count."""
    depth = 0
    tokens = _TOKEN.findall(text)
    for position, token in enumerate(tokens):
        if token in _OPEN:
            depth += 1
        elif token in _CLOSE:
            depth -= 1
            if depth == 0:
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
