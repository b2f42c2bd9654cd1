"""What is measured says what it is: a name, N and M; and means with standard errors, by the paper's rule."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

SCHEMA = "hpcmaf-metrics/2"
DIVERSITY_SCHEMA = "hpcmaf-diversity/1"
# From the shallowest to the deepest, with what tables call them.
MEASURES = {"answer": "one answer", "vote@1": "majority", "vote@M": "debate"}
# Until version 2 every file had these three, whether or not they differed.
_FIRST = "hpcmaf-metrics/1"
SCHEMAS = (_FIRST, SCHEMA)
_BY_POSITION = {"answer": "one_answer", "vote@1": "majority", "vote@M": "debate"}


def measures_of(agents: int, rounds: int) -> dict[str, tuple[int, int]]:
    """Measures that debates of N agents in M rounds give, each with its own N and M.

    Only those that differ: one answer has no vote, and one round no debate.
    """
    found = {"answer": (1, 1)}
    if agents > 1:
        found["vote@1"] = (agents, 1)
    if rounds > 1:
        found["vote@M"] = (agents, rounds)
    return found


def own_measure(metrics: Mapping[str, Any]) -> str:
    """The measure a method answers by: the deepest that was measured."""
    return [name for name in MEASURES if name in metrics["accuracy"]][-1]


def declared(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """The content of a ``metrics.json`` of any version, as today's.

    Raises
    ------
    KeyError, IndexError, TypeError
        It is damaged.
    """
    if metrics.get("schema") != _FIRST:
        return metrics
    rounds, accuracy, scores = metrics["rounds"], metrics["accuracy"], metrics["scores"]
    names = measures_of(len(rounds[0]["agents"]), len(rounds))
    return dict(metrics) | {
        "schema": SCHEMA,
        "accuracy": {
            name: dict(accuracy[_BY_POSITION[name]]) | {"agents": n, "rounds": m} for name, (n, m) in names.items()
        },
        "scores": {key: scores[key] for key in ("problem_ids", "agreeing") if key in scores}
        | {name: scores[_BY_POSITION[name]] for name in names},
    }


class Estimate(TypedDict):
    """A mean over problems and its standard error, both as shares of one."""

    value: float
    se: float


def estimate(scores: Iterable[float], scale: int = 1) -> Estimate:
    """Mean and standard error of one score per problem.

    Sums are exact, so the result does not depend on the order of the
    problems, not even in its last digit.

    Parameters
    ----------
    scores
        n numbers, one per problem: 0 or 1, a share, or how many of ``scale``
        agents were right. Counting agents *per problem* keeps the error
        honest: agents answering one problem are not independent.
    scale
        What counts as a full score.

    Returns
    -------
    Estimate
        ``value`` = mean / scale; ``se`` = population standard deviation
        (ddof 0) / sqrt(n) / scale, the rule of the paper's tables.

    Raises
    ------
    ValueError
        There is no score.
    """
    scores = list(scores)
    mean, deviation = statistics.mean(scores), statistics.pstdev(scores)
    return Estimate(value=mean / scale, se=deviation / math.sqrt(len(scores)) / scale)
