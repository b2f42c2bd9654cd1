"""What a debate does to answers: who is corrected, who corrupted, who gives in, who is right where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from hpcmaf.answers import equivalent, vote
from hpcmaf.debate.consensus import others_agree
from hpcmaf.evaluation.curves import answer_classes, curve_points, majority_at_k, pass_at_k
from hpcmaf.evaluation.spread import Ratio, estimate, ratio

# All pairs of so many agents are listed; of more, only their mean.
MOST_PAIRED = 10
# A key of the problems' meta with more values than this is no grouping.
MOST_VALUES = 20


class Scored(NamedTuple):
    """A problem's debate, compared with its gold answer.

    Attributes
    ----------
    answers, right
        Of each round the agents' answers, and whether each of them is right.
    voted
        Of each round whether its vote is right.
    agreeing, tied
        How many agents' final answers are the final vote's, and whether that
        was a draw.
    """

    gold: str
    meta: Mapping[str, str]
    answers: tuple[tuple[str | None, ...], ...]
    right: tuple[tuple[bool, ...], ...]
    voted: tuple[bool, ...]
    agreeing: int
    tied: bool


def movement(problems: Sequence[Scored], m: int) -> dict[str, Ratio]:
    """What happens to answers from round m - 1 to round m.

    Returns
    -------
    dict
        Shares of opportunities, with their errors over problems:

        ``corrected``
            Share of an agent's wrong answers that are right a round later.
        ``corrupted``
            Share of right answers that are wrong a round later.
        ``vote_corrected``, ``vote_corrupted``
            The same of the round's vote.
        ``majority_corrected``, ``split_corrected``
            Of wrong votes that more than half of the agents gave, and of
            those that no more than half did: how many are right a round
            later. To correct the one agents must hold out against most of the
            others; the other leaves no majority to follow.
        ``gave_up``
            Sycophancy: where an agent was right and more than half of the
            others agreed on one wrong answer, how often it took theirs over.
        ``persuaded``
            Where an agent was wrong and more than half of the others agreed
            on the right answer, how often it was right a round later.
    """
    each = [_moves(one, m) for one in problems]
    return {name: ratio([moves[name][0] for moves in each], [moves[name][1] for moves in each]) for name in each[0]}


def _moves(one: Scored, m: int) -> dict[str, tuple[int, int]]:
    """Of one problem how often each happened, and how often it could have."""
    said, now = one.answers[m - 2 : m]
    before, after = one.right[m - 2 : m]
    wrong, right = not one.voted[m - 2], one.voted[m - 1]
    agents = range(len(before))
    # How many gave the answer that won does not depend on how ties are decided.
    shared = wrong and 2 * vote(said, 0).votes > len(before)
    gave_up, persuaded = [], []
    # Without a right and a wrong answer no agent is right against the others, and none wrong.
    for n in agents if any(before) and not all(before) else ():
        theirs = others_agree(said, n)
        if theirs is None or theirs.answer is None:
            continue
        they_are_right = equivalent(theirs.answer, one.gold)
        if before[n] and not they_are_right:
            gave_up.append(now[n] is not None and equivalent(now[n], theirs.answer))
        elif not before[n] and they_are_right:
            persuaded.append(after[n])
    return {
        "corrected": (sum(after[n] and not before[n] for n in agents), len(before) - sum(before)),
        "corrupted": (sum(before[n] and not after[n] for n in agents), sum(before)),
        "vote_corrected": (wrong and right, wrong),
        "vote_corrupted": (not wrong and not right, not wrong),
        "majority_corrected": (shared and right, shared),
        "split_corrected": (wrong and not shared and right, wrong and not shared),
        "gave_up": (sum(gave_up), len(gave_up)),
        "persuaded": (sum(persuaded), len(persuaded)),
    }


def curves(problems: Sequence[Scored], m: int) -> dict[str, Any]:
    """pass@k and majority@k of round m.

    The k answers are those of k different agents, so for a society of
    specialists k counts specialists.

    Returns
    -------
    dict
        ``k``, and for each the ``pass`` and the ``majority`` estimate.
    """
    points = curve_points(len(problems[0].right[m - 1]))
    passes: list[list[float]] = [[] for _ in points]
    majorities: list[list[float]] = [[] for _ in points]
    for one in problems:
        classes, right = answer_classes(one.answers[m - 1]), one.right[m - 1]
        # Equivalence to gold need not be transitive; the largest right class stands for all.
        winning = min((c for c, good in zip(classes, right, strict=True) if good and c >= 0), default=-1)
        for at, k in enumerate(points):
            passes[at].append(pass_at_k(len(right), sum(right), k))
            majorities[at].append(majority_at_k(classes, winning, k))
    return {"k": points, "pass": [*map(estimate, passes)], "majority": [*map(estimate, majorities)]}


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
        ``oracle``: an agent is right; ``gap``: an agent is, the vote is not;
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
        "pairs": [
            [a, b, sum(x != y for x, y in zip(correct[a], correct[b], strict=True)) / problems]
            for a, b in pairs
            if agents <= MOST_PAIRED
        ],
    }


def by_kind(
    metas: Sequence[Mapping[str, str]], correct: Sequence[Sequence[int]], voted: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Accuracy of each agent and of the vote on each kind of problem.

    Returns
    -------
    dict
        Key of the problems' meta (such as ``level``), value, metrics; keys
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
                "agents": [estimate(row[at] for at in rows) for row in correct],
                "vote": estimate(voted[at] for at in rows),
            }
            for value, rows in sorted(places.items())
        }
    return found
