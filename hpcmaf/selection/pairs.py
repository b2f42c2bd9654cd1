"""Preference pairs out of debates.

One prompt, two answers of the same round: one that the debate's consensus
confirms, one that it does not. One of them is the agent's own, the other that
of the next agent whom the consensus judges otherwise. The prompt is the problem
for a generator, who answered it as the others did, and for a critic all that
it had read before its last answer, to which the others' last answers differ
but in what their summaries said. An agent's answers of different rounds are
never a pair: they answer different prompts, and what sets such texts apart is
that, before who is right; three iterations of it left the micro model nothing.
"""

from __future__ import annotations

import json
from collections.abc import Container
from typing import TYPE_CHECKING, Any

from hpcmaf.answers import Vote
from hpcmaf.debate.consensus import agrees
from hpcmaf.debate.transcript import Transcript, Utterance

if TYPE_CHECKING:
    from hpcmaf.selection.sources import Dataset


def opposed(
    transcript: Transcript, agent: int, round: int, vote: Vote, without: Container[int] = ()
) -> tuple[int, int] | None:
    """Whose answers of a round make an agent's pair: one that the consensus confirms, and one that it does not.

    ``agent`` is one of the two; the other is the next whose answer fared
    otherwise. ``None`` where all were right, or all wrong: there is nothing
    to prefer.

    Parameters
    ----------
    without
        Agents whose answers are in no pair.
    """
    # What cannot be read as an answer is not confirmed.
    right = [agrees(turn.answer, vote) for turn in transcript.answers[round - 1]]
    others = [(agent + step) % len(right) for step in range(1, len(right))]
    other = next((other for other in others if right[other] != right[agent] and other not in without), None)
    if other is None:
        return None
    return (agent, other) if right[agent] else (other, agent)


def pair_line(transcript: Transcript, dataset: Dataset, answer: str, thinking: str = "keep") -> str:
    """One line of a dataset of pairs, in the conversational form of TRL's datasets, and where it came from."""
    problem, n = transcript.problem.id, dataset.index
    chosen, rejected = dataset.sides[problem]
    turns = transcript.answers[dataset.round - 1]
    record: dict[str, Any] = {
        "prompt": transcript.conversation(n, dataset.round)[:-1],
        "chosen": [_said(turns[chosen], thinking)],
        "rejected": [_said(turns[rejected], thinking)],
        "problem_id": problem,
        "round": dataset.round,
        "label": dataset.labels[problem],
        "consensus": answer,
        "finish_reason": {"chosen": turns[chosen].finish_reason, "rejected": turns[rejected].finish_reason},
    }
    # Model output may hold lone surrogates, which UTF-8 cannot: escape.
    return json.dumps(record, ensure_ascii=True) + "\n"


def _said(turn: Utterance, thinking: str) -> dict[str, str]:
    return {"role": "assistant", "content": turn.spoken if thinking == "strip" else turn.text}
