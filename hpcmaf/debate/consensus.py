"""The label a debate gives itself: y^ of the paper, section 2; one rule for training and evaluation alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hpcmaf.answers import Vote, vote
from hpcmaf.debate.transcript import Transcript
from hpcmaf.seeding import derive_seed


def consensus(transcript: Transcript, round: int, seed: int, iteration: int) -> Vote:
    """Majority vote over the answers of one round.

    In the last round agents' weights count, where the debate has any, and what a judge chose stands before the vote, if
    it is one of the answers.

    Parameters
    ----------
    round
        1-based; the method's label is the vote of the *last* round alone.
    seed, iteration
        Of the run. With the problem's id they decide ties, so the outcome does not depend on shard, batch or order.
    """
    answers = [utterance.answer for utterance in transcript.answers[round - 1]]
    last = round == transcript.rounds
    seed = derive_seed(seed, iteration, transcript.problem.id, "tie")
    weights = transcript.weights if last else ()
    return (judged(transcript) if last else None) or vote(answers, seed, weights=weights, same=transcript.same)


def judged(transcript: Transcript) -> Vote | None:
    """The last answers that are what the judge chose; ``None`` where there is no such answer, or no judge."""
    choice = transcript.judgement.answer if transcript.judgement else None
    answers = [turn.answer for turn in transcript.answers[-1]]
    agreeing = tuple(bool(choice and answer) and transcript.same(answer, choice) for answer in answers)
    if not any(agreeing):
        return None
    chosen = [answer for answer, agrees in zip(answers, agreeing, strict=True) if answer and agrees]
    return Vote(min(chosen, key=lambda answer: (len(answer), answer)), agreeing, len(chosen), False)


def undecided(transcript: Transcript) -> bool:
    """Whether a judge was asked and its reply is none of the answers."""
    return bool(transcript.judgement and transcript.judgement.prompt) and judged(transcript) is None


def agrees(answer: str | None, label: Vote, transcript: Transcript) -> bool:
    """Whether an answer of any round is the label's: the consensus answer or, without a vote, the gold one (STaR)."""
    if answer is None or label.answer is None:
        return False
    return transcript.same(answer, label.answer) if label.agrees else transcript.right(answer)


def others_agree(answers: Sequence[str | None], agent: int, same: Callable[[str, str], bool]) -> Vote | None:
    """The answer that more than half of the other agents share in a round; ``None`` where there is no such answer."""
    others = [answer for other, answer in enumerate(answers) if other != agent]
    theirs = vote(others, 0, same=same)
    return theirs if theirs.answer is not None and 2 * theirs.votes > len(others) else None
