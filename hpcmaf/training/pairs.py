"""Preference pairs out of debates, and pairs in tokens.

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
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcmaf.answers import Vote
from hpcmaf.chat import ChatFormat
from hpcmaf.debate.consensus import agrees
from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.errors import DataError
from hpcmaf.training.data import TokenData, TokenSample, dataset_lines

if TYPE_CHECKING:
    from hpcmaf.training.parts import Dataset


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


def pair_line(transcript: Transcript, dataset: Dataset, answer: str) -> str:
    """One line of a dataset of pairs, in TRL's conversational form, and where it came from."""
    problem, n = transcript.problem.id, dataset.index
    chosen, rejected = dataset.sides[problem]
    turns = transcript.answers[dataset.round - 1]
    record: dict[str, Any] = {
        "prompt": transcript.conversation(n, dataset.round)[:-1],
        "chosen": [_said(turns[chosen])],
        "rejected": [_said(turns[rejected])],
        "problem_id": problem,
        "round": dataset.round,
        "label": dataset.labels[problem],
        "consensus": answer,
        "finish_reason": {"chosen": turns[chosen].finish_reason, "rejected": turns[rejected].finish_reason},
    }
    # Model output may hold lone surrogates, which UTF-8 cannot: escape.
    return json.dumps(record, ensure_ascii=True) + "\n"


def _said(turn: Utterance) -> dict[str, str]:
    return {"role": "assistant", "content": turn.text}


@dataclass(frozen=True, slots=True)
class TokenPair:
    """Two training texts that begin alike; to batches it is one sample.

    Attributes
    ----------
    input_ids
        Both texts, for whoever counts tokens.
    """

    id: str
    chosen: TokenSample
    rejected: TokenSample
    input_ids: list[int]

    @property
    def target_tokens(self) -> int:
        """Tokens of both answers."""
        return self.chosen.target_tokens + self.rejected.target_tokens

    def columns(self) -> dict[str, list[int]]:
        """As TRL's collator reads a pair."""
        start = self.chosen.target.index(True)
        return {
            "prompt_ids": self.chosen.input_ids[:start],
            "chosen_ids": self.chosen.input_ids[start:],
            "rejected_ids": self.rejected.input_ids[start:],
        }


def load_pairs(path: Path, chat: ChatFormat, *, max_length: int) -> TokenData:
    """Render and tokenize a dataset of pairs; one with a text longer than ``max_length`` is dropped whole.

    Raises
    ------
    DataError
        A line is not a pair.
    """
    pairs, dropped = [], 0
    for number, record in _records(path):
        try:
            prompt = [{"role": str(m["role"]), "content": str(m["content"])} for m in record["prompt"]]
            reasons = record.get("finish_reason") or {}
            answers = [
                (str(record[side][-1]["content"]), reasons.get(side) != "length") for side in ("chosen", "rejected")
            ]
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise DataError(f"{path}:{number}: not a preference pair ({error!r}); rerun selection") from error
        name = f"{record.get('problem_id', 'line')}:{number}"
        texts = [
            chat.sample([*prompt, {"role": "assistant", "content": answer}], ended=ended) for answer, ended in answers
        ]
        chosen, rejected = (TokenSample(name, text.input_ids, text.target) for text in texts)
        if max(len(chosen.input_ids), len(rejected.input_ids)) > max_length:
            dropped += 1
        else:
            pairs.append(TokenPair(name, chosen, rejected, chosen.input_ids + rejected.input_ids))
    return TokenData(pairs, dropped)


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in dataset_lines(path):
        try:
            yield number, json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not a line of JSON ({error}); rerun selection") from error
