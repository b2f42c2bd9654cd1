"""What a debate does to answers: who is corrected, who corrupted, who gives in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hpcmaf.answers import vote
from hpcmaf.debate.consensus import others_agree
from hpcmaf.debate.transcript import Transcript
from hpcmaf.evaluation.measures import Ratio, ratio


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

    transcript: Transcript
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
    same, is_right = one.transcript.same, one.transcript.right
    shared = wrong and 2 * vote(said, 0, same=same).votes > len(before)
    gave_up, persuaded = [], []
    # Without a right and a wrong answer no agent is right against the others, and none wrong.
    for n in agents if any(before) and not all(before) else ():
        theirs = others_agree(said, n, same)
        if theirs is None or theirs.answer is None:
            continue
        they_are_right = is_right(theirs.answer)
        if before[n] and not they_are_right:
            gave_up.append(now[n] is not None and same(now[n], theirs.answer))
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
