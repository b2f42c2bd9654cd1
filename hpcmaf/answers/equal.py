r"""Whether two answers are the same answer.

A cascade: the same string in one spelling, the parts of what is compound, exact rational values, Math-Verify.

Conventions are those of the MATH data set: ``50\%`` is ``50``, ``90^\circ`` is ``90``, ``\$5`` is ``5``, ``x=5`` is
``5``, units are dropped unless both sides name known and different ones. Decimals are exact: ``0.33`` is not ``1/3``.
``52_8`` is an answer in base 8 and neither ``52`` nor ``42``. A list without brackets is a set; a tuple is not. Words
are compared as words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from math import inf

from hpcmaf.answers import checker
from hpcmaf.answers.checker import Deadline
from hpcmaf.answers.notation import plain
from hpcmaf.answers.numbers import value_of

DEFAULT_DEADLINE_S = 5.0
MAX_LENGTH = 1000
_MAX_DEPTH = 5
_SPACE = re.compile(r"\s+(?!\.?\d)|(?<![\d\s])\s+")  # but between two digits
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
# Letters that people multiply; with others, two or three letters are rather a word.
_FACTORS = frozenset("abcdxyzmn")
_BASES = {name: number for number, name in enumerate("two three four five six seven eight nine ten".split(), 2)}
_BASES |= {"twelve": 12, "sixteen": 16}
_BASE = re.compile(r"(-?[0-9A-Za-z.]+)\s*(?:_|(?:in\s)?base)\s*(?:base\s*)?(\d{1,2}|[A-Za-z]+)")
_CLOCK = re.compile(r"(\d{1,2})\s*:\s*([0-5]\d)(?:\s*:\s*([0-5]\d))?")
_SYMBOL = re.compile(r"[A-Za-z]|\\[a-z]+")
# What Math-Verify drops, joins or takes apart: such texts are the same as strings or not at all.
_UNREADABLE = re.compile(
    r"'|\"|\?|\\ldots|\\text|\\prime|\\frac\s*\{d[a-z]?\}\s*\{d[a-z]\}|(?<![\d_^.c])\d+\s+[\d.]|[^\x00-\x7f]"
    r"|(?<![A-Za-z\\{])[A-Za-z]{4,}|(?:[-+]\s*){9}"
)
_MAX_NESTING = 30  # its parser's time grows faster than that, and unmatched brackets make it try everything


def equivalent(a: str | None, b: str | None, *, deadline_s: float = DEFAULT_DEADLINE_S) -> bool:
    """Whether two answers mean the same; symmetric, cached, safe from any thread.

    Parameters
    ----------
    a, b
        Extracted answers. ``None``, blank and NaN are equivalent to nothing, themselves included.
    deadline_s
        Limit of all of Math-Verify's checks together, in seconds. What is not found equal by then is different.
        Starting the worker (a few seconds, once) does not count.
    """
    if not a or not b:
        return False
    first, second = sorted((a, b))
    if len(first) > MAX_LENGTH or len(second) > MAX_LENGTH:
        return _SPACE.sub("", first) == _SPACE.sub("", second) != ""
    if {_spelling(plain(text).text).strip("$ ").casefold() for text in (first, second)} & {"", "nan"}:
        return False
    return first == second or _verdict(first, second, deadline_s)


@lru_cache(maxsize=1 << 16)
def _verdict(first: str, second: str, deadline_s: float) -> bool:
    return _same(first, second, Deadline(deadline_s), 0)


def _same(a: str, b: str, deadline: Deadline, depth: int) -> bool:
    first, second = plain(a), plain(b)
    left, right = first.text, second.text
    if not left or not right or depth > _MAX_DEPTH:
        return False
    if any(one and other and one != other for one, other in ((first.unit, second.unit), (first.note, second.note))):
        return False
    # "5 h" alone may be a product, beside "5 hours" it is none.
    units = [("", one.unit or "", (one.unit or "").lower()) for one in (first, second)]
    spellings = [{_spelling(text + unit) for unit in some} for text, some in zip((left, right), units, strict=True)]
    if _spelling(left) in spellings[1] or _spelling(right) in spellings[0]:
        return True
    if (verdict := _labels(left, right, deadline, depth + 1)) is not None:
        return verdict
    digits = _based(left), _based(right)
    if any(digits):
        return digits[0] == digits[1]
    if _is_word(left) or _is_word(right):  # one spelling alone: to Math-Verify a word is a product of its letters
        return False
    if (verdict := _structures(left, right, deadline, depth + 1)) is None:
        verdict = _values(left, right)
    if verdict is not None:
        return verdict
    unreadable = any(_UNREADABLE.search(text) or _nesting(text) > _MAX_NESTING for text in (left, right))
    if unreadable or ("=" in _relations(left)) != ("=" in _relations(right)):  # an equation is no value
        return False
    return checker.check(*sorted((left, right)), deadline)


def _spelling(text: str) -> str:
    """Without spaces; words, unlike symbols, also without capitals."""
    bare = re.sub(r"\s+", " ", _SPACE.sub("", _TEXT.sub(r" \1 ", text).rstrip(" .,")))
    return bare.casefold() if _is_word(text) and (not bare.isupper() or _is_word(bare.lower())) else bare


def _is_word(text: str) -> bool:
    """Whether a text is a word or several, and no product of its letters."""
    bare = "".join(_TEXT.sub(r"\1", text).split())
    if len(bare) < 2 or not (bare.isalpha() or re.fullmatch(r"(?:\\text\s*\{[^{}]*\}[\s.,]*)+", text.strip())):
        return False
    product = _FACTORS.issuperset(bare.lower()) or not set("aeiou") & set(bare.lower())
    return len(bare) > 3 or bare.isupper() or "\\text" in text or not product


def _based(text: str) -> tuple[str, int] | None:
    """``52_8``: the digits and the base, not the value, are the answer."""
    match = _BASE.fullmatch(re.sub(r"\\text|[{}()]", " ", text).strip().replace(" _ ", "_"))
    if match is None:
        return None
    digits, base = match[1].upper(), int(match[2]) if match[2].isdigit() else _BASES.get(match[2].lower(), 0)
    bare = digits.lstrip("-").replace(".", "", 1)
    known = bare.isalnum() and all(int(digit, 36) < base for digit in bare) and (len(bare) > 1 or bare.isdigit())
    return (digits, base) if known else None


def _labels(left: str, right: str, deadline: Deadline, depth: int) -> bool | None:
    r"""``x = 5`` against ``5``, ``x = 5`` or ``x \in \{5\}``."""
    first, second = _label(left), _label(right)
    if first and second:
        known = first[0] == second[0] or not first[0] or not second[0]
        return _same(first[1], second[1], deadline, depth) if known else None
    one, other = (first, right) if first else (second, left)
    return _same(one[1], other, deadline, depth) if one and "=" not in _relations(other) else None


def _structures(left: str, right: str, deadline: Deadline, depth: int) -> bool | None:
    first, second = _split(left), _split(right)
    if first is None and second is None:
        return None
    if first is None or second is None:
        (kind, parts), other = (first, right) if first else (second, left)
        if kind == "set" and len(parts) == 1:
            return _same(parts[0], other, deadline, depth)
        # A condition or a difference of sets may come to an interval.
        return None if kind in ("()", "[]", "(]", "[)") else False
    (kind, parts), (other_kind, others) = first, second
    if kind != other_kind or len(parts) != len(others):
        return False
    remaining = list(others)
    for part in parts:
        candidates = remaining if kind == "set" else remaining[:1]
        match = next((other for other in candidates if _same(part, other, deadline, depth)), None)
        if match is None:
            return False
        remaining.remove(match)
    return True


def _values(left: str, right: str) -> bool | None:
    """Numbers, times of day and single symbols."""
    first, second = _CLOCK.fullmatch(left), _CLOCK.fullmatch(right)
    if first and second:
        return [int(part or 0) for part in first.groups()] == [int(part or 0) for part in second.groups()]
    one, other = value_of(left), value_of(right)
    simple = [value is not None or _SYMBOL.fullmatch(text) for text, value in ((left, one), (right, other))]
    return one is not None and one == other if all(simple) else None


# --- what an answer in the one spelling is made of ---

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


def _split(text: str) -> tuple[str, tuple[str, ...]] | None:
    """Kind (``set``, also of a list, ``series``, or brackets) and elements; ``None`` for a single expression."""
    if CONDITION.fullmatch(text) or _relations(text) - {"="} and len(_top_level(text)) == 1:
        return None
    tokens, depths = zip(*_levels(text), strict=True)
    brackets = tokens[0] + tokens[-1]
    encloses = 0 not in depths[:-1] and depths[-1] == 0
    if tokens[0] in ("(", "[", "\\{") and tokens[-1] in (")", "]", "\\}") and encloses:
        parts = _top_level(text[len(tokens[0]) : -len(tokens[-1])])
        if brackets == "\\{\\}":
            return _listed(parts)
        return (brackets, parts) if len(parts) > 1 else None
    parts = _elements(text)
    return _listed(parts) if len(parts) > 1 or _BOTH.search(text) else None


def _label(text: str) -> tuple[str, str] | None:
    r"""Name and value of ``f(2) = 5`` and ``x \in [0, 1]``, an empty name in ``1 + 1 = 2``, none in equations."""
    sides = _top_level(text, ("=", "\\in"))
    if len(sides) < 2 or text.rstrip().endswith("=") or (len(sides) > 2 and len(_elements(text)) > 1):
        return None
    name, value = sides[0], sides[-1]
    if _is_name(name):
        return "".join(name.split()), value
    bound = re.search(r"\\(?:sum|prod|lim|int)(?![A-Za-z])", name)
    return ("", value) if bound or not re.search(r"[A-Za-z]", re.sub(r"\\[a-z]+", "", name)) else None


def _relations(text: str) -> set[str]:
    """The signs of equality and order outside of all brackets."""
    return {token for token, depth in _levels(text) if depth == 0 and token in _SIGNS}


def _nesting(text: str) -> float:
    """How deep brackets stand in one another; infinite where they do not match."""
    depths = [0, *(depth for _, depth in _levels(text))]
    return inf if depths[-1] or min(depths) < 0 else max(depths)


def _top_level(text: str, separators: tuple[str, ...] = (",", ";")) -> tuple[str, ...]:
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
    return _top_level(OR.sub(",", AND.sub(",", text)))


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
