r"""Whether two answers are the same answer.

A cascade: the same string once spelled alike (`hpcmaf.answers.notation`); the
parts of what is compound (`hpcmaf.answers.structure`); exact rational values
(`hpcmaf.answers.rational`); Math-Verify for all else
(`hpcmaf.answers.checker`).

Conventions are those of the MATH data set: ``50\%`` is ``50``, ``90^\circ`` is
``90``, ``\$5`` is ``5``, ``x=5`` is ``5``, units are dropped unless both sides
name known and different ones. Decimals are exact: ``0.33`` is not ``1/3``.
``52_8`` is an answer in base 8 and neither ``52`` nor ``42``. A list without
brackets is a set; a tuple is not. Words are compared as words.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from functools import lru_cache

from hpcmaf.answers import checker
from hpcmaf.answers.checker import Deadline, DeadlineExceeded
from hpcmaf.answers.notation import Plain, plain
from hpcmaf.answers.rational import value_of
from hpcmaf.answers.structure import Structure, label, relations, split

DEFAULT_DEADLINE_S = 5.0
MAX_LENGTH = 1000
_CACHE_SIZE = 1 << 16
_MAX_DEPTH = 5
_SPACE = re.compile(r"\s+(?!\d)|(?<![\d\s])\s+")  # but between two digits
_LONG_WORD = re.compile(r"(?<![A-Za-z\\{])[A-Za-z]{4,}")
_TEXT_ONLY = re.compile(r"(?:\\text\s*\{[^{}]*\}[\s.,]*)+")
# Letters that people multiply; with others, two or three letters are rather a word.
_FACTORS = frozenset("abcdxyzmn")
_BASES = {name: number for number, name in enumerate("two three four five six seven eight nine ten eleven twelve".split(), 2)}
_BASES["sixteen"] = 16
_BASE = re.compile(r"(-?[0-9A-Za-z.]+)\s*(?:_|base)\s*(?:base\s*)?(\d{1,2}|[a-z]+)")
_CLOCK = re.compile(r"(\d{1,2})\s*:\s*([0-5]\d)(?:\s*:\s*([0-5]\d))?")
# What Math-Verify drops, joins or takes apart; such texts are the same as strings or not at all.
_UNREADABLE = re.compile(r"'|\"|\?|\\ldots|\\text|(?<![\d_^.c])\d+\s+[\d.]|\\prime|[^\x00-\x7f]|(?<![A-Za-z\\{])[A-Za-z]{4,}")


def equivalent(a: str | None, b: str | None, *, deadline_s: float = DEFAULT_DEADLINE_S) -> bool:
    """Whether two answers mean the same; symmetric, cached, safe from any thread.

    Parameters
    ----------
    a, b
        Extracted answers. ``None``, blank and NaN are equivalent to nothing,
        themselves included.
    deadline_s
        Limit of all of Math-Verify's checks together, in seconds. What is not
        found equal by then is different. Starting the workers (about 2 s,
        once) does not count.
    """
    if not a or not b:
        return False
    first, second = sorted((a, b))
    if len(first) > MAX_LENGTH or len(second) > MAX_LENGTH:
        return _SPACE.sub("", first) == _SPACE.sub("", second) != ""
    if _is_nothing(first) or _is_nothing(second):
        return False
    if first == second:
        return True
    key = (first, second)
    verdict = _cache.get(key, deadline_s)
    if verdict is None:
        comparison = _Comparison(Deadline(deadline_s))
        verdict = comparison.same(first, second, 0)
        _cache.put(key, verdict, deadline_s if comparison.cut_short else float("inf"))
    return verdict


def warm_up() -> None:
    """Start the workers now, so that no later comparison waits for their imports."""
    checker.warm_up()


class _Cache:
    """Verdicts, least recently used dropped first; "different, out of time" holds up to its deadline."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._verdicts: OrderedDict[tuple[str, str], tuple[bool, float]] = OrderedDict()

    def get(self, key: tuple[str, str], deadline_s: float) -> bool | None:
        with self._lock:
            if (found := self._verdicts.get(key)) is None or found[1] < deadline_s:
                return None
            self._verdicts.move_to_end(key)
            return found[0]

    def put(self, key: tuple[str, str], verdict: bool, up_to_deadline_s: float) -> None:
        with self._lock:
            self._verdicts[key] = (verdict, up_to_deadline_s)
            if len(self._verdicts) > _CACHE_SIZE:
                self._verdicts.popitem(last=False)

    def renew_lock(self) -> None:
        """In a forked child: a thread that does not exist here may have held it."""
        self._lock = threading.Lock()


_cache = _Cache()
os.register_at_fork(after_in_child=_cache.renew_lock)


def _is_nothing(text: str) -> bool:
    return _spelling(plain(text).text).strip("$ ").casefold() in ("", "nan")


@lru_cache(maxsize=1 << 14)
def _split(text: str) -> Structure | None:
    return split(text)


@lru_cache(maxsize=1 << 14)
def _spelling(text: str) -> str:
    """Without spaces; words, unlike symbols, also without capitals."""
    bare = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).strip(" .,")
    bare = re.sub(r"\s+", " ", _SPACE.sub("", bare))
    return bare.casefold() if _is_word(text) and (not bare.isupper() or _is_word(bare.lower())) else bare


@lru_cache(maxsize=1 << 14)
def _is_word(text: str) -> bool:
    """Whether a text is a word or several, and not a product of its letters."""
    bare = "".join(text.split())
    if _TEXT_ONLY.fullmatch(text.strip()):
        return len(bare) > len(r"\text{x}")
    if not bare.isalpha() or len(bare) < 2:
        return not bare.isascii() and any(character.isalpha() for character in bare)
    return len(bare) > 3 or bare.isupper() or (not _FACTORS.issuperset(bare.lower()) and bool(set("aeiou") & set(bare.lower())))


def _is_prose(text: str) -> bool:
    return len(_LONG_WORD.findall(text.replace("\\text{", "\\text{ "))) > 1


class _Comparison:
    """One comparison of two answers, with the time it has for all their parts.

    Attributes
    ----------
    cut_short : bool
        Whether some check ran out of time; a verdict of "different" may then
        turn with a longer deadline.
    """

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self.cut_short = False

    def same(self, a: str, b: str, depth: int) -> bool:
        first, second = plain(a), plain(b)
        if not first.text or not second.text or depth > _MAX_DEPTH or _differ_in_meaning(first, second):
            return False
        left, right = first.text, second.text
        if _spelling(left) == _spelling(right):
            return True
        verdict = _bases(left, right)
        if verdict is None:
            verdict = self._labels(left, right, depth)
        if verdict is None:
            verdict = _words(left, right)
        if verdict is None:
            verdict = self._structures(left, right, depth)
        if verdict is None:
            verdict = _values(left, right)
        return self._checked(left, right) if verdict is None else verdict

    def _labels(self, left: str, right: str, depth: int) -> bool | None:
        r"""``x = 5`` against ``5``, ``x = 5`` or ``x \in \{5\}``."""
        first, second = label(left), label(right)
        if first and second:
            known = first[0] == second[0] or not first[0] or not second[0]
            return self.same(first[1], second[1], depth + 1) if known else None
        if first and "=" not in relations(right):
            return self.same(first[1], right, depth + 1)
        if second and "=" not in relations(left):
            return self.same(left, second[1], depth + 1)
        return None

    def _structures(self, left: str, right: str, depth: int) -> bool | None:
        first, second = _split(left), _split(right)
        if first is None and second is None:
            return None
        if first is None or second is None:
            one, other = (first, right) if first else (second, left)
            assert one is not None
            if one.kind == "set" and len(one.parts) == 1:
                return self.same(one.parts[0], other, depth + 1)
            intervals = one.kind in ("union", "()", "[]", "(]", "[)") and re.search(r"[<>|]|\\(?:le|ge|ne|setminus|cap)\b|-", other)
            return None if intervals or one.kind.startswith("determinant") else False
        if first.kind != second.kind or len(first.parts) != len(second.parts):
            return False
        if first.name and second.name and first.name != second.name:
            return False
        if first.ordered:
            return all(self.same(a, b, depth + 1) for a, b in zip(first.parts, second.parts, strict=True))
        remaining = list(second.parts)
        for part in first.parts:
            match = next((index for index, other in enumerate(remaining) if self.same(part, other, depth + 1)), None)
            if match is None:
                return False
            del remaining[match]
        return True

    def _checked(self, left: str, right: str) -> bool:
        """Math-Verify's verdict; an equation and a value are no pair for it."""
        if _UNREADABLE.search(left) or _UNREADABLE.search(right) or ("=" in relations(left)) != ("=" in relations(right)):
            return False
        try:
            return checker.check(*sorted((left, right)), self._deadline)
        except DeadlineExceeded:
            self.cut_short = True
            return False


def _differ_in_meaning(first: Plain, second: Plain) -> bool:
    units = first.unit and second.unit and first.unit != second.unit
    return bool(units or (first.note and second.note and first.note != second.note))


def _words(left: str, right: str) -> bool | None:
    """Words, prose and whatever has another spelling: to Math-Verify a word is a product of its letters."""
    return False if any(_is_word(text) or _is_prose(text) for text in (left, right)) else None


def _bases(left: str, right: str) -> bool | None:
    """``52_8``: the digits and the base, not the value, are the answer."""
    first, second = _based(left), _based(right)
    return None if first is None and second is None else first == second


@lru_cache(maxsize=1 << 14)
def _based(text: str) -> tuple[str, int] | None:
    match = _BASE.fullmatch(re.sub(r"\\text|[{}()]", " ", text).strip().replace(" _ ", "_"))
    if match is None:
        return None
    digits, base = match[1].upper(), int(match[2]) if match[2].isdigit() else _BASES.get(match[2], 0)
    figures = digits.lstrip("-").replace(".", "", 1)
    numeric = any(figure.isdigit() for figure in figures) or len(figures) > 1
    return (digits, base) if numeric and base > 1 and all(figure.isalnum() and int(figure, 36) < base for figure in figures) else None


def _values(left: str, right: str) -> bool | None:
    """Numbers and times of day."""
    first, second = _CLOCK.fullmatch(left), _CLOCK.fullmatch(right)
    if first and second:
        return [int(part or 0) for part in first.groups()] == [int(part or 0) for part in second.groups()]
    one, other = value_of(left), value_of(right)
    return one == other if one is not None and other is not None else None
