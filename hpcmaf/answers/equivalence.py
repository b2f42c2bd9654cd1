r"""Whether two answers are the same answer.

A cascade, each level cheaper than the next by an order of magnitude:

1. the same string once spelled alike (`hpcmaf.answers.notation`);
2. compound answers, part by part (`hpcmaf.answers.structure`);
3. exact values (`hpcmaf.answers.expression`): numbers, roots, multiples of pi
   and polynomials are decided here for good, both ways;
4. Math-Verify 0.9 in a worker process with a hard deadline
   (`hpcmaf.answers.checker`).

Conventions are those of the MATH data set: ``50\%`` is ``50``, ``90^\circ`` is
``90``, ``\$5`` is ``5``, ``x=5`` is ``5``, units are dropped unless both sides
name known and different ones. Decimals are exact: ``0.33`` is not ``1/3``.
``52_8`` is an answer in base 8 and neither ``52`` nor ``42``. A list without
brackets is a set; a tuple is not.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from functools import lru_cache

from hpcmaf.answers import checker
from hpcmaf.answers.expression import TooLarge, Undecided, read
from hpcmaf.answers.notation import plain
from hpcmaf.answers.polynomial import Polynomial
from hpcmaf.answers.structure import Structure, setting, split

DEFAULT_DEADLINE_S = 5.0
MAX_LENGTH = 4000
_CACHE_SIZE = 1 << 16
_SPACE = re.compile(r"\s+")
_BASE = re.compile(r"\s*([0-9A-Za-z]+)\s*_\s*\{?\s*(\d{1,2})\s*\}?\s*")
_NOT_A_NUMBER = frozenset({"", "nan", "none", "null", "undefined?"})


def equivalent(a: str | None, b: str | None, *, deadline_s: float = DEFAULT_DEADLINE_S) -> bool:
    """Whether two answers mean the same; symmetric, cached, safe from any thread.

    Parameters
    ----------
    a, b
        Extracted answers. ``None``, blank and NaN are equivalent to nothing,
        themselves included.
    deadline_s
        Limit of the check in a worker, in seconds. What is not found equal by
        then is different. Starting a worker (about 2 s, once) does not count.
    """
    if a is None or b is None or not _speaks(a) or not _speaks(b):
        return False
    first, second = sorted((a, b))
    if first == second:
        return True
    if len(second) > MAX_LENGTH or len(first) > MAX_LENGTH:
        return _SPACE.sub("", first) == _SPACE.sub("", second)
    key = (first, second)
    known = _cache.get(key, deadline_s)
    if known is None:
        known, decided = _compare(first, second, deadline_s, 0)
        _cache.put(key, known, float("inf") if decided else deadline_s)
    return known


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

    def clear(self) -> None:
        with self._lock:
            self._verdicts.clear()


_cache = _Cache()


def _speaks(text: str) -> bool:
    return text.strip().lower() not in _NOT_A_NUMBER


@lru_cache(maxsize=1 << 15)
def _plain(text: str) -> tuple[str, str | None]:
    return plain(text)


@lru_cache(maxsize=1 << 15)
def _value(text: str) -> Polynomial | type[Undecided]:
    try:
        return read(text)
    except Undecided as reason:
        return type(reason)


@lru_cache(maxsize=1 << 15)
def _split(text: str) -> Structure | None:
    return split(text)


def _spelling(text: str) -> str:
    bare = _SPACE.sub("", text)
    return bare.casefold() if bare.isalpha() and len(bare) > 1 else bare


def _compare(a: str, b: str, deadline_s: float, depth: int) -> tuple[bool, bool]:
    """(equivalent, whether that is final rather than cut short by the deadline)."""
    (left, left_unit), (right, right_unit) = _plain(a), _plain(b)
    if not left or not right:
        return False, True
    if left_unit is not None and right_unit is not None and left_unit != right_unit:
        return False, True
    if _spelling(left) == _spelling(right):
        return True, True
    if depth > 4:
        return False, True
    set_left, set_right = setting(left), setting(right)
    if set_left and set_right and set_left[0] == set_right[0]:
        return _compare(set_left[1], set_right[1], deadline_s, depth + 1)
    if set_left and not set_right and "=" not in right:
        return _compare(set_left[1], right, deadline_s, depth + 1)
    if set_right and not set_left and "=" not in left:
        return _compare(left, set_right[1], deadline_s, depth + 1)
    parts_left, parts_right = _split(left), _split(right)
    if parts_left is not None or parts_right is not None:
        return _compare_parts(parts_left, parts_right, deadline_s, depth)
    base_left, base_right = _BASE.fullmatch(left), _BASE.fullmatch(right)
    if base_left or base_right:
        return bool(base_left and base_right and base_left.groups() == base_right.groups()), True
    if "=" in left and "=" in right and left.count("=") == right.count("=") == 1:
        verdict = _compare_equations(left, right)
        if verdict is not None:
            return verdict, True
    return _compare_expressions(left, right, deadline_s)


def _compare_expressions(left: str, right: str, deadline_s: float) -> tuple[bool, bool]:
    first, second = _value(left), _value(right)
    if isinstance(first, Polynomial) and isinstance(second, Polynomial):
        return first == second, True
    if (first is TooLarge and isinstance(second, Polynomial)) or (second is TooLarge and isinstance(first, Polynomial)):
        return False, True
    try:
        return checker.shared.check(left, right, deadline_s), True
    except checker.DeadlineExceeded:
        return False, False


def _compare_equations(left: str, right: str) -> bool | None:
    sides = [_value(side) for equation in (left, right) for side in equation.split("=")]
    if not all(isinstance(side, Polynomial) for side in sides):
        return None
    try:
        first, second = (sides[0] - sides[1]).monic(), (sides[2] - sides[3]).monic()  # type: ignore[operator]
    except Undecided:
        return None
    return first == second if first.terms and second.terms else None


def _compare_parts(left: Structure | None, right: Structure | None, deadline_s: float, depth: int) -> tuple[bool, bool]:
    if left is None or right is None:
        return False, True
    kinds = {"set" if side.kind == "list" else side.kind for side in (left, right)}
    if len(kinds) > 1 or len(left.parts) != len(right.parts):
        return False, True
    final = True
    if left.ordered:
        for first, second in zip(left.parts, right.parts, strict=True):
            same, decided = _compare(first, second, deadline_s, depth + 1)
            if not same:
                return False, decided
        return True, True
    remaining = list(right.parts)
    for first in left.parts:
        for index, second in enumerate(remaining):
            same, decided = _compare(first, second, deadline_s, depth + 1)
            final &= decided
            if same:
                del remaining[index]
                break
        else:
            return False, final
    return True, True
