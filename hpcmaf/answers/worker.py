r"""What runs in the worker processes: Math-Verify, and what it needs to be right.

Run only there, as ``python -m hpcmaf.answers.worker`` (see `hpcmaf.answers.checker`): sympy takes seconds to import.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import resource
import signal
import sys
import time
from functools import lru_cache

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify

from hpcmaf.answers.equal import AND, CONDITION, OR
from hpcmaf.answers.numbers import value_of

MEMORY_BYTES = 4 << 30
# As Math-Verify reads by itself, units that are variables go (5c), A is a, and decimals are rounded to six digits.
_NORMALIZATION = NormalizationConfig(units=False, malformed_operators=True, boxed="none")
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_DECIMAL = re.compile(r"\d*\.\d+|\d+\.(?!\d)")
_OPTIONS = {"numeric_precision": 120, "float_rounding": 100, "timeout_seconds": None, "allow_set_relation_comp": True}


def compare(a: str, b: str) -> bool:
    """Whether two expressions are equal."""
    try:
        first, second = _read(a), _read(b)
        conditions = all(isinstance(tree, sympy.Rel | sympy.And | sympy.Or) for tree in (first, second))
        names = not conditions or first.free_symbols == second.free_symbols
        first, second = _solutions(first), _solutions(second)
        return names and (
            verify(first, second, **_OPTIONS) or verify(second, first, **_OPTIONS) or _same_where_real(first, second)
        )
    except Exception:  # noqa: BLE001 - sympy raises of every kind, RecursionError and MemoryError among them
        return False  # what it cannot compare it has not found equal


def _read(text: str) -> sympy.Basic:
    """A set for the condition of a set, a condition for inequalities, else what is written."""
    builder = CONDITION.fullmatch(text)
    return _solutions(_condition(builder[1])) if builder else _condition(text)


def _condition(text: str) -> sympy.Basic:
    """Inequalities joined by "and" and "or"."""
    for joined, word in ((sympy.Or, OR), (sympy.And, AND)):
        if len(cases := word.split(text)) > 1:
            return joined(*map(_condition, cases))
    return _parse(text)


def _solutions(tree: sympy.Basic) -> sympy.Basic:
    """The set that a condition on one variable describes; anything else as it is."""
    if tree is sympy.true:
        return sympy.S.Reals
    condition = isinstance(tree, sympy.And | sympy.Or | sympy.Rel) and not isinstance(tree, sympy.Eq)
    return tree.as_set() if condition and len(tree.free_symbols) == 1 else tree


@lru_cache(maxsize=1 << 10)
def _parse(text: str) -> sympy.Basic:
    if (value := value_of(text)) is not None:
        return sympy.Rational(value.numerator, value.denominator)
    text = _DECIMAL.sub(lambda match: r"{{\frac{{{}}}{{{}}}}}".format(*sympy.Rational(match[0]).as_numer_denom()), text)
    tree = latex2sympy(text, is_real=True, normalization_config=_NORMALIZATION, conversion_config=_CONVERSION)
    units = {symbol: sympy.I for symbol in getattr(tree, "free_symbols", ()) if symbol.name == "i"}
    return tree.subs(units).doit()  # to it 2x/2 is not x


def _same_where_real(first: sympy.Basic, second: sympy.Basic) -> bool:
    """Whether they are equal for positive variables, and both have roots that are real for no others."""
    rooted = _rooted(first) & _rooted(second)
    positive = {name: sympy.Symbol(f"{name}_", positive=True) for name in rooted}
    return bool(rooted) and sympy.simplify((first - second).subs(positive)) == 0


def _rooted(tree: sympy.Basic) -> set[sympy.Symbol]:
    roots = [power.base for power in tree.atoms(sympy.Pow) if power.exp.is_Rational and power.exp.q % 2 == 0]
    powers = [pair for base in roots for pair in sympy.powsimp(base.doit()).as_powers_dict().items()]
    return {name for name, power in powers if name.is_Symbol and power.is_integer and power % 2}


def _serve() -> None:
    """Answer each line of standard input, ``[a, b, deadline_s]``, by the verdict and how many seconds it took."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES if hard < 0 else min(hard, MEMORY_BYTES), hard))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no reply
    logging.disable(logging.CRITICAL)
    for first, second in (("x+1", "1+x"), ("x<1", r"(-\infty,1)")):
        compare(first, second)  # builds the parser's tables and the solver's now, not on the first deadline
    print("ready", file=replies, flush=True)
    # At a deadline the kernel ends the process that answers, also inside one long C call; then another one is forked.
    while child := os.fork():
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGALRM:
            return
        print(json.dumps([False, math.inf]), file=replies, flush=True)
    for line in sys.stdin:
        a, b, deadline_s = json.loads(line)
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, deadline_s)
        verdict = compare(a, b)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps([verdict, time.monotonic() - start]), file=replies, flush=True)


if __name__ == "__main__":
    _serve()
