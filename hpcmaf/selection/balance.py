"""How many positive and negative trajectories a critic is trained on.

Method, step 4. Which ones are kept is decided by each problem's own draw, so
it depends neither on the order of problems nor on how a store was cut up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from math import floor
from typing import Literal, get_args

from hpcmaf.errors import ConfigError
from hpcmaf.seeding import derive_seed

Mix = Literal["exact", "cap", "released"]


def check_mix(w: float, mix: str) -> None:
    """Refuse a share outside 0..1 and an unknown way to mix.

    Raises
    ------
    ConfigError
        Either of them.
    """
    if not 0 <= w <= 1:  # also true of NaN
        raise ConfigError(f"selection: w is {w}; it is the share of corrections in a critic's data and lies in 0..1")
    if mix not in get_args(Mix):
        raise ConfigError(f"selection: mix is {mix!r}; it must be one of {', '.join(get_args(Mix))}")


def exact_counts(positives: int, negatives: int, w: float) -> tuple[int, int]:
    """Largest sizes of which a share ``w`` is negative.

    The scarcer side is used up; of the other the number nearest to the exact
    share is taken (a half rounds down), so ``realised w`` is off by less than
    one sample. With ``0 < w < 1`` and one side empty the set is empty.

    Parameters
    ----------
    positives, negatives
        Candidates |D+| and |D-|.
    w
        In [0, 1]; read as the decimal it is written as (0.1 is a tenth).

    Returns
    -------
    tuple of int
        How many of D+ and of D- to keep.
    """
    share = Fraction(repr(float(w)))
    if share == 0:
        return positives, 0
    if share == 1:
        return 0, negatives
    total = min(negatives / share, positives / (1 - share))
    return _nearest(total * (1 - share)), _nearest(total * share)


def cap_counts(positives: int, negatives: int, w: float) -> tuple[int, int]:
    """All of D+, and of D- as many as keep their share at or below ``w``.

    ``exact`` starves critics once negatives grow rare; here positives are
    never given up.
    """
    share = Fraction(repr(float(w)))
    if share == 1:
        return positives, negatives
    return positives, min(negatives, floor(share / (1 - share) * positives))


def released_counts(positives: int, negatives: int, coins: Iterable[bool]) -> tuple[int, int]:
    """All of D-, and after each one of D+ if its coin (probability 1/2) says so.

    The released code crashes when D+ runs out; here it is simply used up.
    """
    return min(positives, sum(coins)), negatives


def mix_trajectories(
    positives: list[str], negatives: list[str], w: float, mix: Mix, draw: Callable[[str, str], int]
) -> set[str]:
    """Choose which problems a critic is trained on.

    Parameters
    ----------
    positives, negatives
        Problem ids of D+ and D-.
    draw
        ``draw(problem_id, purpose)`` gives a uniform number in [0, 2**63).

    Returns
    -------
    set of str
        Problem ids, sampled without replacement.
    """
    if mix == "exact":
        counts = exact_counts(len(positives), len(negatives), w)
    elif mix == "cap":
        counts = cap_counts(len(positives), len(negatives), w)
    else:
        coins = (draw(problem, "coin") >= 1 << 62 for problem in negatives)
        counts = released_counts(len(positives), len(negatives), coins)
    chosen: set[str] = set()
    for side, count in zip((positives, negatives), counts, strict=True):
        # The smallest draws of a side are a uniform subset of it.
        chosen.update(sorted(side, key=lambda problem: (draw(problem, "keep"), problem))[:count])
    return chosen


def drawer(seed: int, iteration: int, agent: str) -> Callable[[str, str], int]:
    """The draws of one agent in one iteration."""
    return lambda problem, purpose: derive_seed(seed, iteration, agent, problem, "mix", purpose)


def _nearest(value: Fraction) -> int:
    return -floor(Fraction(1, 2) - value)
