"""Rewards of an agent's responses to one question, against each other.

A problem of a method that learns by groups is debated several times (``debate.samples``), by the same society in other
draws. A group is what one agent said in one of its rounds in all of these debates, so agents are never measured by each
other (per-agent normalisation, as in Dr. MAS): a critic that is mostly right learns from its own failures, not from
generators' more. A response is rewarded for agreeing with the vote of its own debate, whatever the other debates' votes
are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

# As in TRL, where the spread of a group is never divided by alone.
_LEAST_SPREAD = 1e-4


def advantages(groups: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Each reward less its group's mean, over the group's standard deviation.

    Groups in which all fared alike say nothing of what is better, and are left out.
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
    likely = [math.exp(score - max(scores)) for score in scores]
    return [len(scores) * one / sum(likely) for one in likely]
