"""Accuracy of a society on problems whose gold answers are known.

Pure functions of transcripts. Every problem counts, in every figure: one
whose vote has no answer is wrong, it is never left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hpcmaf.answers import equivalent
from hpcmaf.debate.consensus import consensus
from hpcmaf.debate.transcript import Transcript
from hpcmaf.errors import DataError
from hpcmaf.evaluation.behaviour import by_kind, curves, movements, specialisation
from hpcmaf.evaluation.measures import SCHEMA, measures_of
from hpcmaf.evaluation.spread import estimate


def _right(answer: str | None, gold: str) -> bool:
    return answer is not None and equivalent(answer, gold)


class _Tally:
    """Scores of every problem so far; a few bytes each, no transcript is kept."""

    def __init__(self, agents: int, rounds: int) -> None:
        self.agents, self.rounds = agents, rounds
        self.problem_ids: dict[str, None] = {}
        # correct[m - 1][n] and voted[m - 1]: one 0/1 byte per problem.
        self.correct = [[bytearray() for _ in range(agents)] for _ in range(rounds)]
        self.voted = [bytearray() for _ in range(rounds)]
        self.agreeing: list[int] = []
        self.unparsable = self.tied = 0
        self.movements = movements(rounds)
        self.metas: list[dict[str, str]] = []
        # Of the first round and of the last: what curves are made of.
        self.answers: dict[int, list[tuple[str | None, ...]]] = {1: [], rounds: []}

    def add(self, transcript: Transcript, seed: int, iteration: int) -> None:
        problem = transcript.problem
        if problem.gold is None:
            raise DataError(f"problem {problem.id!r} has no gold answer; evaluate on problems that have one")
        if any(len(turn) != self.agents for turn in transcript.answers) or transcript.rounds != self.rounds:
            raise DataError(
                f"problem {problem.id!r}: its debate is not one of {self.agents} agents in {self.rounds} rounds "
                "like the first; do not mix debates of different shape"
            )
        if problem.id in self.problem_ids:
            raise DataError(f"problem {problem.id!r} occurs twice; merge the shards again")
        self.problem_ids[problem.id] = None
        answers = [tuple(utterance.answer for utterance in turn) for turn in transcript.answers]
        right = [[_right(answer, problem.gold) for answer in turn] for turn in answers]
        voted = []
        for m in range(self.rounds):
            for agent, is_right in enumerate(right[m]):
                self.correct[m][agent].append(is_right)
            vote = consensus(transcript, m + 1, seed, iteration)
            voted.append(_right(vote.answer, problem.gold))
            self.voted[m].append(voted[m])
        for m, movement in self.movements:
            before, after = m - 2, m - 1
            movement.add(
                (answers[before], answers[after]),
                (right[before], right[after]),
                (voted[before], voted[after]),
                problem.gold,
            )
        for m, kept in self.answers.items():
            kept.append(answers[m - 1])
        self.metas.append(dict(problem.meta))
        # The last round's vote is the debate's answer.
        self.agreeing.append(sum(vote.agrees))
        self.tied += vote.tied
        self.unparsable += sum(utterance.answer is None for utterance in transcript.answers[-1])

    def round(self, m: int) -> dict[str, Any]:
        return {
            "round": m,
            "agents": [estimate(scores) for scores in self.correct[m - 1]],
            "mean": estimate(map(sum, zip(*self.correct[m - 1], strict=True)), scale=self.agents),
            "vote": estimate(self.voted[m - 1]),
            "specialisation": specialisation(self.correct[m - 1], self.voted[m - 1]),
        }

    def curves(self) -> list[dict[str, Any]]:
        """Curves over k of the first and the last round."""
        return [
            {"round": m} | curves(answers, list(zip(*self.correct[m - 1], strict=True)))
            for m, answers in self.answers.items()
        ]


def _marks(scores: bytearray) -> str:
    return "".join(map(str, scores))


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
            problems), the vote, and ``specialisation``, see
            :func:`hpcmaf.evaluation.behaviour.specialisation`.
        ``movement``
            Per round from the second on: what became of the answers of the
            round before, see :class:`hpcmaf.evaluation.behaviour.Movement`.
        ``curves``
            pass@k and majority@k of the first and the last round.
        ``by_kind``
            Accuracy in the last round by what the problems' meta says.
        ``consensus``
            Mean share of agents whose final answer is equivalent to the final
            vote (paper, section on diversity): (a, a, b) counts 2/3; a
            debate without any answer counts 0.
        ``diversity``
            1 - consensus, with its error over problems.
        ``unparsable``, ``tied``
            Share of the n * N final answers without an answer; share of the
            n final votes without a unique winner.
        ``scores``
            Problem ids and, per measure, a string of n characters 0 or 1, for
            paired tests; ``agents[m - 1][n]`` the same of each single answer.
            ``agreeing``: per problem, how many agents' final answers are the
            final vote's.

    Raises
    ------
    DataError
        No debate at all, a problem without gold or twice, or debates of
        different shape.
    """
    tally: _Tally | None = None
    for transcript in transcripts:
        if tally is None:
            tally = _Tally(transcript.agents, transcript.rounds)
        tally.add(transcript, seed, iteration)
    if tally is None:
        raise DataError(f"iteration {iteration}: no debate to score; evaluate at least one problem")
    problems = len(tally.problem_ids)
    shapes = measures_of(tally.agents, tally.rounds)
    right = {"answer": tally.correct[0][0], "vote@1": tally.voted[0], "vote@M": tally.voted[-1]}
    return {
        "schema": SCHEMA,
        "iteration": iteration,
        "method": method,
        "task": task,
        "problems": problems,
        "accuracy": {name: {"agents": n, "rounds": m, **estimate(right[name])} for name, (n, m) in shapes.items()},
        "rounds": [tally.round(m) for m in range(1, tally.rounds + 1)],
        "movement": [{"round": m} | movement.figures() for m, movement in tally.movements],
        "curves": tally.curves(),
        "by_kind": by_kind(tally.metas, tally.correct[-1], tally.voted[-1]),
        "consensus": sum(tally.agreeing) / (problems * tally.agents),
        "diversity": estimate((tally.agents - agreeing for agreeing in tally.agreeing), scale=tally.agents),
        "unparsable": tally.unparsable / (problems * tally.agents),
        "tied": tally.tied / problems,
        "pseudo_labels": None,
        "scores": {"problem_ids": list(tally.problem_ids)}
        | {name: _marks(right[name]) for name in shapes}
        | {"agents": [[_marks(scores) for scores in turn] for turn in tally.correct], "agreeing": tally.agreeing},
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
        ``problems``: those with a gold answer; ``labelled``: how many of them
        got a label at all; ``value``, ``se``: share of *all* of them whose
        label is right, a problem without a label counting as wrong. (Of the
        labels made, ``value * problems / labelled`` are right.) ``None``
        where no problem has a gold answer.
    """
    right = bytearray()
    labelled = 0
    for transcript in transcripts:
        gold = transcript.problem.gold
        if gold is None:
            continue
        label = consensus(transcript, transcript.rounds, seed, iteration).answer
        labelled += label is not None
        right.append(_right(label, gold))
    if not right:
        return None
    return {**estimate(right), "labelled": labelled, "problems": len(right)}
