r"""Whether two answers are the same answer.

A cascade, each level cheaper than the next by an order of magnitude:

1. the same string once spelled alike (`hpcmaf.answers.notation`);
2. compound answers, part by part (`hpcmaf.answers.structure`);
3. exact values (`hpcmaf.answers.expression`): numbers, roots, multiples of pi
   and polynomials are decided here for good, both ways; a number of more
   than 4,214 digits is the same only in the same spelling;
4. Math-Verify 0.9 in a worker process with a hard deadline
   (`hpcmaf.answers.checker`).

Conventions are those of the MATH data set: ``50\%`` is ``50``, ``90^\circ`` is
``90``, ``\$5`` is ``5``, ``x=5`` is ``5``, units are dropped unless both sides
name known and different ones. Decimals are exact: ``0.33`` is not ``1/3``.
``52_8`` is an answer in base 8 and neither ``52`` nor ``42``. A list without
brackets is a set; a tuple is not.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from functools import lru_cache

from hpcmaf.answers import checker
from hpcmaf.answers.checker import Deadline, DeadlineExceeded
from hpcmaf.answers.expression import read
from hpcmaf.answers.notation import plain
from hpcmaf.answers.polynomial import Polynomial, TooLarge, Undecided
from hpcmaf.answers.structure import Structure, setting, split

DEFAULT_DEADLINE_S = 5.0
MAX_LENGTH = 1000
_CACHE_SIZE = 1 << 16
_MAX_DEPTH = 5
_SPACE = re.compile(r"\s+")
_LONG_WORD = re.compile(r"(?<![A-Za-z\\{])[A-Za-z]{4,}")
_BASE = re.compile(r"\s*(-?[0-9A-Za-z.]+)\s*_\s*\{?\s*(\d{1,2})\s*\}?\s*")


def equivalent(a: str | None, b: str | None, *, deadline_s: float = DEFAULT_DEADLINE_S) -> bool:
    """Whether two answers mean the same; symmetric, cached, safe from any thread.

    Parameters
    ----------
    a, b
        Extracted answers. ``None``, blank and NaN are equivalent to nothing,
        themselves included.
    deadline_s
        Limit of all checks in workers together, in seconds. What is not found
        equal by then is different. Starting a worker (about 2 s, once) does
        not count.
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
    """Start a worker now, so that no later comparison waits for its imports."""
    checker.shared.warm_up()


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
            self._verdicts.move_to_end(key)
            if len(self._verdicts) > _CACHE_SIZE:
                self._verdicts.popitem(last=False)

    def renew_lock(self) -> None:
        """In a forked child: a thread that does not exist here may have held it."""
        self._lock = threading.Lock()


_cache = _Cache()
os.register_at_fork(after_in_child=_cache.renew_lock)


def _is_nothing(text: str) -> bool:
    return _plain(text)[0].strip("$ ").casefold() in ("", "nan")


@lru_cache(maxsize=1 << 13)
def _plain(text: str) -> tuple[str, str | None]:
    return plain(text)


@lru_cache(maxsize=1 << 13)
def _value(text: str) -> Polynomial | type[Undecided]:
    try:
        return read(text)
    except Undecided as reason:
        return type(reason)


@lru_cache(maxsize=1 << 13)
def _split(text: str) -> Structure | None:
    return split(text)


def _spelling(text: str) -> str:
    """Without spaces; words, unlike symbols, also without capitals."""
    bare = _SPACE.sub("", text)
    return bare.casefold() if _is_word(bare) or (len(bare) > 1 and bare.istitle()) else bare


def _is_word(bare: str) -> bool:
    return len(bare) > 3 and bare.isalpha()


def _is_prose(text: str) -> bool:
    return len(_LONG_WORD.findall(text)) > 1


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
        (left, left_unit), (right, right_unit) = _plain(a), _plain(b)
        if not left or not right or (left_unit and right_unit and left_unit != right_unit):
            return False
        spelled_left, spelled_right = _spelling(left), _spelling(right)
        if spelled_left == spelled_right:
            return True
        # To Math-Verify a word is a product of its letters: "even" would be "neve".
        if _is_word(spelled_left) or _is_word(spelled_right) or _is_prose(left) or _is_prose(right):
            return False
        if depth > _MAX_DEPTH:
            return False
        verdict = self._settings(left, right, depth)
        if verdict is None:
            verdict = self._structures(_split(left), _split(right), depth)
        if verdict is None:
            verdict = _bases(left, right)
        if verdict is None:
            verdict = _equations(left, right)
        if verdict is None:
            verdict = self._expressions(left, right)
        return verdict

    def _settings(self, left: str, right: str, depth: int) -> bool | None:
        """``x = 5`` against ``5``, ``x = 5`` or ``x \\in \\{5\\}``."""
        first, second = setting(left), setting(right)
        if first and second:
            return self.same(first[1], second[1], depth + 1) if first[0] == second[0] else None
        if first and "=" not in right:
            return self.same(first[1], right, depth + 1)
        if second and "=" not in left:
            return self.same(left, second[1], depth + 1)
        return None

    def _structures(self, left: Structure | None, right: Structure | None, depth: int) -> bool | None:
        if left is None and right is None:
            return None
        if left is None or right is None or len(left.parts) != len(right.parts):
            return False
        if len({"set" if side.kind == "list" else side.kind for side in (left, right)}) > 1:
            return False
        if left.ordered:
            return all(self.same(a, b, depth + 1) for a, b in zip(left.parts, right.parts, strict=True))
        remaining = list(right.parts)
        for part in left.parts:
            match = next((index for index, other in enumerate(remaining) if self.same(part, other, depth + 1)), None)
            if match is None:
                return False
            del remaining[match]
        return True

    def _expressions(self, left: str, right: str) -> bool:
        first, second = _value(left), _value(right)
        if isinstance(first, Polynomial) and isinstance(second, Polynomial):
            return first == second
        if TooLarge in (first, second):
            return False  # thousands of digits in another spelling: a worker would only run out of time
        try:
            return checker.shared.check(left, right, self._deadline)
        except DeadlineExceeded:
            self.cut_short = True
            return False


def _bases(left: str, right: str) -> bool | None:
    """``52_8``: the digits and the base, not the value, are the answer."""
    first, second = _BASE.fullmatch(left), _BASE.fullmatch(right)
    if first is None and second is None:
        return None
    return first is not None and second is not None and first.groups() == second.groups()


def _equations(left: str, right: str) -> bool | None:
    """Equations are the same if one is a multiple of the other; ``1+1=2`` stands for ``2``."""
    sides = [[_value(side) for side in text.split("=")] for text in (left, right)]
    if [len(pair) for pair in sides] == [1, 1]:
        return None
    if not all(isinstance(side, Polynomial) for pair in sides for side in pair):
        return None if len(sides[0]) == len(sides[1]) else False
    if 1 in (len(sides[0]), len(sides[1])):
        return len({side for pair in sides for side in pair}) == 1
    if [len(pair) for pair in sides] != [2, 2]:
        return None
    try:
        first, second = ((pair[0] - pair[1]).monic() for pair in sides)  # type: ignore[operator]
    except Undecided:
        return None
    return first == second if first.terms and second.terms else None
