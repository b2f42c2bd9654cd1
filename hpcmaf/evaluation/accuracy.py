"""Accuracy of a society on problems whose gold answers are known.

Pure functions of transcripts. Every problem counts, in every figure: one
whose vote has no answer is wrong, it is never left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hpcmaf.debate.consensus import consensus
from hpcmaf.debate.health import Tally
from hpcmaf.debate.transcript import Transcript
from hpcmaf.errors import DataError
from hpcmaf.evaluation.measures import SCHEMA, estimate, measures_of


def score(transcripts: Iterable[Transcript], *, seed: int, iteration: int, method: str, task: str) -> dict[str, Any]:
    """Score one iteration's evaluation debates against their gold answers.

    Parameters
    ----------
    transcripts
        Debates of the held-out problems, each with ``problem.gold``; read
        once, so a store may stream them. All of one shape, N agents by M
        rounds.
    seed, iteration
        Of the run; they decide tied votes, as in selection.
    method, task
        Names, carried along.

    Returns
    -------
    dict
        The content of ``metrics.json``; ``pseudo_labels`` is ``None`` (see
        :func:`pseudo_label_accuracy`). With n problems:

        ``accuracy``
            ``answer``: agent 0 in round 1; ``vote@1``: the vote of round 1;
            ``vote@M``: the vote of round M; those that these debates have,
            see :func:`hpcmaf.evaluation.measures.measures_of`. Each
            ``{"agents", "rounds", "value", "se"}``, se = population std
            (ddof 0) / sqrt(n).
        ``rounds``
            Per round: each agent, the mean over agents (its error taken over
            problems), and the vote.
        ``consensus``
            Mean share of agents whose final answer is equivalent to the final
            vote (paper, section on diversity): (a, a, b) counts 2/3; a
            debate without any answer counts 0.
        ``diversity``
            1 - consensus, with its error over problems.
        ``unparsable``, ``tied``
            Share of the n * N final answers without an answer; share of the
            n final votes without a unique winner.
        ``cut_off``, ``tokens_per_answer``, ``unanimous``
            See :class:`hpcmaf.debate.health.Health`.
        ``scores``
            Problem ids and, per measure, a string of n characters 0 or 1, for
            paired tests. ``agreeing``: per problem, how many agents' final
            answers are the final vote's.

    Raises
    ------
    DataError
        No debate at all, a problem without gold or twice, or debates of
        different shape.
    """
    ids: dict[str, None] = {}
    # Of each problem: per round which agents' answers are right and whether the vote is; the final vote's agents.
    right, voted, agreeing = [], [], []
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
    """How often the training debate's own vote was right; reported, never used.

    Parameters
    ----------
    transcripts
        Training debates, with gold answers where there are any.
    seed, iteration
        Of the run, as in selection: these are the very labels trained on.

    Returns
    -------
    dict or None
        ``problems``: those with a gold answer; ``value``, ``se``: share of
        *all* of them whose label is right, a problem without a label counting
        as wrong. ``None`` where no problem has a gold answer.
    """
    debates = (transcript for transcript in transcripts if transcript.problem.gold is not None)
    right = [one.right(consensus(one, one.rounds, seed, iteration).answer) for one in debates]
    return {**estimate(right), "problems": len(right)} if right else None
