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

from collections.abc import Container
from typing import Any

from hpcmaf.answers import Vote
from hpcmaf.debate.consensus import agrees
from hpcmaf.debate.transcript import Transcript
from hpcmaf.selection.sources import Dataset


def opposed(
    transcript: Transcript, round: int, agent: int, label: Vote, without: Container[int] = ()
) -> tuple[int, int] | None:
    """Whose answers of a round make an agent's pair: one that the consensus confirms, and one that it does not.

    ``agent`` is one of the two; the other is the next whose answer fared
    otherwise and who is not among those ``without``. ``None`` where there is
    no such agent, as where all were right, or all wrong.
    """
    # What cannot be read as an answer is not confirmed.
    right = [agrees(turn.answer, label, transcript) for turn in transcript.answers[round - 1]]
    others = [(agent + step) % len(right) for step in range(1, len(right))]
    other = next((other for other in others if right[other] != right[agent] and other not in without), None)
    if other is None:
        return None
    return (agent, other) if right[agent] else (other, agent)


def pair(transcript: Transcript, dataset: Dataset, thinking: str = "keep") -> tuple[dict[str, Any], dict[str, str]]:
    """A pair in the conversational form of TRL's datasets, and why its answers ended."""
    turns = transcript.answers[dataset.round - 1]
    sides = dict(zip(("chosen", "rejected"), dataset.sides[transcript.problem.id], strict=True))
    texts = {side: turns[n].spoken if thinking == "strip" else turns[n].text for side, n in sides.items()}
    sample = {
        "prompt": transcript.conversation(dataset.index, dataset.round)[:-1],
        **{side: [{"role": "assistant", "content": text}] for side, text in texts.items()},
    }
    return sample, {side: turns[n].finish_reason for side, n in sides.items()}
