"""What is measured says what it is: a name, how many agents answered, in how many rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    known = {"problem_ids", "agents", "agreeing"}
    return dict(metrics) | {
        "schema": SCHEMA,
        "accuracy": {
            name: dict(accuracy[_BY_POSITION[name]]) | {"agents": n, "rounds": m} for name, (n, m) in names.items()
        },
        "scores": {key: value for key, value in scores.items() if key in known}
        | {name: scores[_BY_POSITION[name]] for name in names},
    }
