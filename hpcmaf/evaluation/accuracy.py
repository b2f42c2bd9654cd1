"""Accuracy of a society on problems whose gold answers are known.

What is measured says what it is: a name, N and M; means have standard errors, by the paper's rule. Every problem
counts: one whose vote has no answer is wrong, it is never left out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from hpcmaf.debate.consensus import consensus
from hpcmaf.debate.health import Tally
from hpcmaf.debate.transcript import Transcript
from hpcmaf.errors import DataError

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
        "accuracy": {name: accuracy[_BY_POSITION[name]] | {"agents": n, "rounds": m} for name, (n, m) in names.items()},
        "scores": {key: scores[key] for key in ("problem_ids", "agreeing") if key in scores}
        | {name: scores[_BY_POSITION[name]] for name in names},
    }


def estimate(scores: Iterable[float], scale: int = 1) -> dict[str, float]:
    """Mean and standard error of one score per problem, whatever the order of the problems.

    Parameters
    ----------
    scores
        n numbers, one per problem, at least one: 0 or 1, a share, or how many of ``scale`` agents were right. Agents
        that answer one problem are not independent, so they are counted per problem.
    scale
        What counts as a full score.

    Returns
    -------
    dict
        ``value`` = mean / scale; ``se`` = population standard deviation (ddof 0) / sqrt(n) / scale, the rule of the
        paper's tables.
    """
    scores = list(scores)
    mean, deviation = statistics.mean(scores), statistics.pstdev(scores)
    return {"value": mean / scale, "se": deviation / math.sqrt(len(scores)) / scale}


def score(transcripts: Iterable[Transcript], *, seed: int, iteration: int, method: str, task: str) -> dict[str, Any]:
    """Score one iteration's evaluation debates against their gold answers.

    Parameters
    ----------
    transcripts
        Debates of N agents in M rounds, each with ``problem.gold``; read once, so a store may stream them.
    seed, iteration
        Of the run; they decide tied votes, as in selection.
    method, task
        Names, carried along.

    Returns
    -------
    dict
        The content of ``metrics.json``. With n problems:

        ``accuracy``
            ``answer``: agent 0 in round 1; ``vote@1``: the vote of round 1; ``vote@M``: the vote of round M; those
            that these debates have, see :func:`measures_of`. Each ``{"agents", "rounds", "value", "se"}``.
        ``rounds``
            Per round: each agent, the mean over agents (its error taken over problems), and the vote.
        ``consensus``, ``diversity``
            Mean share of agents whose final answer is the final vote's (paper, section on diversity): (a, a, b) counts
            2/3, a debate without any answer 0. Diversity is 1 - consensus, with its error over problems.
        ``unparsable``, ``tied``, ``cut_off``, ``tokens_per_answer``, ``unanimous``
            See :class:`hpcmaf.debate.health.Health`.
        ``pseudo_labels``
            ``None``, see :func:`pseudo_label_accuracy`.
        ``scores``
            Problem ids and, per measure, a string of n characters 0 or 1, for paired tests. ``agreeing``: per problem,
            how many agents' final answers are the final vote's.

    Raises
    ------
    DataError
        No debate at all, a problem without gold or twice, or debates of different shape.
    """
    # Of each problem: id, per round which agents' answers are right and whether the vote is, the final vote's agents.
    ids, right, voted, agreeing = dict[str, None](), [], [], []
    tally = Tally()
    agents = rounds = 0
    for transcript in transcripts:
        problem = transcript.problem
        if not ids:
            agents, rounds = transcript.agents, transcript.rounds
        if problem.id in ids or {*map(len, transcript.answers)} != {agents} or transcript.rounds != rounds:
            others = f"{agents} agents in {rounds} rounds"
            raise DataError(f"problem {problem.id!r} comes twice, or not as others of {others}")
        if problem.gold is None:
            raise DataError(f"problem {problem.id!r} has no gold answer; evaluate on problems that have one")
        votes = [consensus(transcript, m, seed, iteration) for m in range(1, rounds + 1)]
        ids[problem.id] = None
        right.append([[transcript.right(one.answer) for one in turn] for turn in transcript.answers])
        voted.append([transcript.right(vote.answer) for vote in votes])
        agreeing.append(sum(votes[-1].agrees))
        tally.add(transcript, agreeing[-1], votes[-1].tied)
    if not ids:
        raise DataError(f"iteration {iteration}: no debate to score; evaluate at least one problem")
    shapes = measures_of(agents, rounds)
    scores = {
        "answer": [each[0][0] for each in right],
        "vote@1": [each[0] for each in voted],
        "vote@M": [each[-1] for each in voted],
    }
    return {
        "schema": SCHEMA,
        "iteration": iteration,
        "method": method,
        "task": task,
        "problems": len(ids),
        "accuracy": {name: {"agents": n, "rounds": m, **estimate(scores[name])} for name, (n, m) in shapes.items()},
        "rounds": [
            {
                "round": m + 1,
                "agents": [estimate(each[m][n] for each in right) for n in range(agents)],
                "mean": estimate((sum(each[m]) for each in right), scale=agents),
                "vote": estimate(each[m] for each in voted),
            }
            for m in range(rounds)
        ],
        "consensus": sum(agreeing) / (len(ids) * agents),
        "diversity": estimate((agents - count for count in agreeing), scale=agents),
        **{"tied": 0.0} | tally.values(),
        "pseudo_labels": None,
        "scores": {
            "problem_ids": list(ids),
            **{name: "".join("01"[mark] for mark in scores[name]) for name in shapes},
            "agreeing": agreeing,
        },
    }


def pseudo_label_accuracy(transcripts: Iterable[Transcript], seed: int, iteration: int) -> dict[str, Any] | None:
    """How often training debates' own votes, the very labels trained on, were right; reported, never used.

    Returns
    -------
    dict or None
        ``problems``: those with a gold answer; ``value``, ``se``: share of *all* of them whose label is right, none
        counting as wrong. ``None`` where no problem has a gold answer.
    """
    debates = (transcript for transcript in transcripts if transcript.problem.gold is not None)
    right = [one.right(consensus(one, one.rounds, seed, iteration).answer) for one in debates]
    return {**estimate(right), "problems": len(right)} if right else None
