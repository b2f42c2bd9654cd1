"""How much samples count: the share of D- in a critic's set (method, step 4), and responses against each other.

Which trajectories are kept is decided by each problem's own draw, so it depends neither on the order of problems nor on
how a store was cut up.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from math import ceil, exp, floor

from hpcmaf.seeding import derive_seed

# As in TRL, where the spread of a group is never divided by alone.
_LEAST_SPREAD = 1e-4


def exact_counts(positives: int, negatives: int, w: float) -> tuple[int, int]:
    """How many of |D+| and |D-| to keep: the most of which a share ``w``, in [0, 1], is negative.

    The scarcer side is used up; of the other the number nearest to the exact share is taken (a half rounds down), so
    the realised w is off by less than one sample. With ``0 < w < 1`` and one side empty the set is empty. ``w`` is read
    as the decimal it is written as (0.1 is a tenth).
    """
    share = Fraction(repr(float(w)))
    if share in (0, 1):
        return (0, negatives) if share else (positives, 0)
    total = min(negatives / share, positives / (1 - share))
    return ceil(total * (1 - share) - Fraction(1, 2)), ceil(total * share - Fraction(1, 2))


def cap_counts(positives: int, negatives: int, w: float) -> tuple[int, int]:
    """All of D+, and of D- as many as keep their share at or below ``w``.

    ``exact`` starves critics once negatives grow rare; here positives are never given up.
    """
    share = Fraction(repr(float(w)))
    return positives, negatives if share == 1 else min(negatives, floor(share / (1 - share) * positives))


def mix_trajectories(
    positives: list[str], negatives: list[str], w: float, mix: str, draw: Callable[[str, str], int]
) -> set[str]:
    """Choose which problems a critic is trained on.

    Parameters
    ----------
    positives, negatives
        Problem ids of D+ and D-.
    mix
        ``"exact"``; ``"cap"``; or ``"released"``, as the authors' code does: all of D-, and after each one of D+ with
        probability 1/2. That code crashes when D+ runs out; here it is simply used up.
    draw
        ``draw(problem_id, purpose)`` gives a uniform number in [0, 2**63).

    Returns
    -------
    set of str
        Problem ids, sampled without replacement.
    """
    if mix == "released":
        coins = sum(draw(problem, "coin") >= 1 << 62 for problem in negatives)
        counts = min(len(positives), coins), len(negatives)
    else:
        counts = (exact_counts if mix == "exact" else cap_counts)(len(positives), len(negatives), w)
    chosen: set[str] = set()
    for side, count in zip((positives, negatives), counts, strict=True):
        # The smallest draws of a side are a uniform subset of it.
        chosen.update(sorted(side, key=lambda problem: (draw(problem, "keep"), problem))[:count])
    return chosen


def drawer(seed: int, iteration: int, agent: str) -> Callable[[str, str], int]:
    """The draws of one agent in one iteration."""
    return lambda problem, purpose: derive_seed(seed, iteration, agent, problem, "mix", purpose)


def advantages(groups: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Each reward less its group's mean, over the group's standard deviation.

    A problem of a method that learns by groups is debated several times (``debate.samples``), by the same society in
    other draws. A group is what one agent said in one of its rounds in all of these debates, so agents are never
    measured by each other (per-agent normalisation, as in Dr. MAS): a critic that is mostly right learns from its own
    failures, not from generators' more. A response is rewarded for agreeing with the vote of its own debate, whatever
    the other debates' votes are. Groups in which all fared alike say nothing of what is better, and are left out.
    """
    found: dict[str, float] = {}
    for rewards in groups:
        values = list(rewards.values())
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        if spread > 0:
            mean = statistics.fmean(values)
            found |= {name: (reward - mean) / (spread + _LEAST_SPREAD) for name, reward in rewards.items()}
    return found


def likelihood_weights(scores: Sequence[float]) -> list[float]:
    """Weights of one model's answers to a question, by how likely a society finds each of them.

    Of K answers with mean log-likelihoods l of a token, answer k weighs ``K exp(l_k) / (exp(l_1) + ... + exp(l_K))``:
    reward-weighted regression (Peters & Schaal 2007) with l as the reward, on a student's own samples as in on-policy
    distillation (Agarwal et al. 2024). They are 1 on average, and all 1 where the society finds no answer likelier than
    another.
    """
    likely = [exp(score - max(scores)) for score in scores]
    return [len(scores) * one / sum(likely) for one in likely]
