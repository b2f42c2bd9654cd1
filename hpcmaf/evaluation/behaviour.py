"""What a debate does to answers: who is corrected, who corrupted, who gives in, who is right where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

from hpcmaf.answers import equivalent, vote
from hpcmaf.debate.consensus import others_agree
from hpcmaf.evaluation.curves import answer_classes, curve_points, majority_at_k, pass_at_k
from hpcmaf.evaluation.spread import Estimate, Ratio, estimate, estimate_shares, ratio

# All pairs of so many agents are listed; of more, only their mean.
MOST_PAIRED = 10
# A key of the problems' meta with more values than this is no grouping.
MOST_VALUES = 20


class _Ratios:
    """Counts and opportunities of one problem after the other."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.opportunities: list[int] = []

    def add(self, count: int, of: int) -> None:
        self.counts.append(count)
        self.opportunities.append(of)

    def figure(self) -> Ratio:
        return ratio(self.counts, self.opportunities)


class Movement:
    """What happens to answers from one round to the next.

    ``corrected``
        Share of an agent's wrong answers that are right a round later.
    ``corrupted``
        Share of right answers that are wrong a round later.
    ``vote_corrected``, ``vote_corrupted``
        The same of the round's vote.
    ``majority_corrected``, ``split_corrected``
        Of wrong votes that more than half of the agents gave, and of those
        that no more than half did: how many are right a round later. To
        correct the one agents must hold out against most of the others; the
        other leaves them nobody to follow.
    ``gave_up``
        Sycophancy: where an agent was right and more than half of the others
        agreed on one wrong answer, how often it took theirs over.
    ``persuaded``
        Where an agent was wrong and more than half of the others agreed on
        the right answer, how often it was right a round later.
    """

    NAMES = (
        "corrected",
        "corrupted",
        "vote_corrected",
        "vote_corrupted",
        "majority_corrected",
        "split_corrected",
        "gave_up",
        "persuaded",
    )

    def __init__(self) -> None:
        self._ratios = {name: _Ratios() for name in self.NAMES}

    def add(
        self,
        answers: tuple[Sequence[str | None], Sequence[str | None]],
        right: tuple[Sequence[bool], Sequence[bool]],
        voted: tuple[bool, bool],
        gold: str,
    ) -> None:
        """One problem.

        Parameters
        ----------
        answers
            Of the N agents, before and after.
        right
            Whether each of them is.
        voted
            Whether the vote of each round is.
        """
        before, after = right
        agents = range(len(before))
        self._count("corrected", sum(after[n] and not before[n] for n in agents), len(before) - sum(before))
        self._count("corrupted", sum(before[n] and not after[n] for n in agents), sum(before))
        self._count("vote_corrected", int(voted[1] and not voted[0]), int(not voted[0]))
        self._count("vote_corrupted", int(voted[0] and not voted[1]), int(voted[0]))
        wrong = not voted[0]
        # How many gave the answer that won does not depend on how ties are decided.
        shared = wrong and 2 * vote(answers[0], 0).votes > len(before)
        self._count("majority_corrected", int(shared and voted[1]), int(shared))
        self._count("split_corrected", int(wrong and not shared and voted[1]), int(wrong and not shared))
        gave_up = tempted = persuaded = shown = 0
        for n in agents:
            if all(before) or not any(before):
                break  # nobody is right against the others, nobody wrong
            theirs = others_agree(answers[0], n)
            if theirs is None or theirs.answer is None:
                continue
            they_are_right = equivalent(theirs.answer, gold)
            if before[n] and not they_are_right:
                tempted += 1
                now = answers[1][n]
                gave_up += now is not None and equivalent(now, theirs.answer)
            elif not before[n] and they_are_right:
                shown += 1
                persuaded += after[n]
        self._count("gave_up", gave_up, tempted)
        self._count("persuaded", persuaded, shown)

    def _count(self, name: str, count: int, of: int) -> None:
        self._ratios[name].add(int(count), int(of))

    def figures(self) -> dict[str, Ratio]:
        """All shares, each with its error over problems and its counts."""
        return {name: ratios.figure() for name, ratios in self._ratios.items()}


def curves(answers: Sequence[Sequence[str | None]], right: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """pass@k and majority@k of one round.

    The k answers are those of k different agents, so for a society of
    specialists k counts specialists.

    Parameters
    ----------
    answers, right
        Of each problem: its N answers, and whether they are right.

    Returns
    -------
    dict
        ``k``, and for each the ``pass`` and the ``majority`` estimate.
    """
    points = curve_points(len(right[0]))
    passes: list[list[float]] = [[] for _ in points]
    majorities: list[list[float]] = [[] for _ in points]
    for spoken, correct in zip(answers, right, strict=True):
        classes = answer_classes(spoken)
        # Equivalence to gold need not be transitive; the largest right class stands for all.
        winning = min((c for c, good in zip(classes, correct, strict=True) if good and c >= 0), default=-1)
        for at, k in enumerate(points):
            passes[at].append(pass_at_k(len(correct), sum(correct), k))
            majorities[at].append(majority_at_k(classes, winning, k))
    return {
        "k": points,
        "pass": [estimate_shares(values) for values in passes],
        "majority": [estimate_shares(values) for values in majorities],
    }


def specialisation(correct: Sequence[Sequence[int]], voted: Sequence[int]) -> dict[str, Any]:
    """Whether agents are right on different problems.

    Parameters
    ----------
    correct
        ``correct[n]``: one 0/1 per problem.
    voted
        Whether the round's vote is right.

    Returns
    -------
    dict
        ``oracle``: somebody is right; ``gap``: somebody is, the vote is not;
        ``unanimous``: all are right; ``alone``: per agent, it alone is right.
        ``disagreement``: share of problems that exactly one of two agents
        gets right, mean over pairs (``None`` for one agent);
        ``independent``: what it would be if agents of these accuracies were
        right independently of each other; ``pairs``: ``[a, b, share]``.
    """
    agents, problems = len(correct), len(voted)
    how_many = [sum(row) for row in zip(*correct, strict=True)]
    pairs = list(combinations(range(agents), 2))
    shares = [sum(correct[n]) / problems for n in range(agents)]
    return {
        "oracle": estimate(int(many > 0) for many in how_many),
        "gap": estimate(int(many > 0 and not vote) for many, vote in zip(how_many, voted, strict=True)),
        "unanimous": estimate(int(many == agents) for many in how_many),
        "alone": [estimate(int(one and many == 1) for one, many in zip(row, how_many, strict=True)) for row in correct],
        # With c of N right, c (N - c) pairs hold one right and one wrong answer.
        "disagreement": estimate((many * (agents - many) for many in how_many), scale=len(pairs)) if pairs else None,
        "independent": (
            sum(shares[a] * (1 - shares[b]) + shares[b] * (1 - shares[a]) for a, b in pairs) / len(pairs)
            if pairs
            else None
        ),
        "pairs": [[a, b, _differ(correct[a], correct[b]) / problems] for a, b in pairs]
        if agents <= MOST_PAIRED
        else [],
    }


def _differ(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(x != y for x, y in zip(a, b, strict=True))


def by_kind(
    metas: Sequence[dict[str, str]], correct: Sequence[Sequence[int]], voted: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Accuracy of each agent and of the vote on each kind of problem.

    Returns
    -------
    dict
        Key of the problems' meta (such as ``level``), value, figures; keys
        that all problems share or that hardly any two share are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for key in sorted(set().union(*metas)) if metas else []:
        places: dict[str, list[int]] = defaultdict(list)
        for at, meta in enumerate(metas):
            places[str(meta.get(key, ""))].append(at)
        if not 1 < len(places) <= min(MOST_VALUES, len(metas) // 2):
            continue
        found[key] = {
            value: {
                "problems": len(rows),
                "agents": [_mean_at(row, rows) for row in correct],
                "vote": _mean_at(voted, rows),
            }
            for value, rows in sorted(places.items())
        }
    return found


def _mean_at(scores: Sequence[int], rows: Sequence[int]) -> Estimate:
    return estimate(scores[at] for at in rows)


def movements(rounds: int) -> list[tuple[int, Movement]]:
    """One :class:`Movement` into each of the rounds 2..M."""
    return [(later, Movement()) for _, later in pairwise(range(1, rounds + 1))]
