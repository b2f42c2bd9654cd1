"""Preference pairs out of debates, and pairs in tokens.

One agent, one prompt, two answers: one that the debate's consensus confirms,
one that it does not. Both are the agent's own, from different rounds of the
same debate; the prompt is the problem for a generator, and for a critic all
that it had read before its last answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcmaf.answers import Vote
from hpcmaf.chat import ChatFormat
from hpcmaf.debate.consensus import agrees
from hpcmaf.debate.transcript import Transcript
from hpcmaf.errors import DataError
from hpcmaf.training.data import TokenData, TokenSample, dataset_lines

if TYPE_CHECKING:
    from hpcmaf.training.parts import Dataset


def opposed(transcript: Transcript, agent: int, vote: Vote) -> tuple[int, int] | None:
    """Rounds of an agent's last answer that the consensus confirms and its last that it does not.

    One of them is the debate's last round. ``None`` for an agent that was
    always right or always wrong: there is nothing to prefer.
    """
    right, wrong = [], []
    for number, turns in enumerate(transcript.answers, 1):
        # What cannot be read as an answer is not confirmed.
        (right if agrees(turns[agent].answer, vote) else wrong).append(number)
    return (right[-1], wrong[-1]) if right and wrong else None


def pair_line(transcript: Transcript, dataset: Dataset, answer: str) -> str:
    """One line of a dataset of pairs, in TRL's conversational form, and where it came from."""
    problem, n = transcript.problem.id, dataset.index
    chosen, rejected = dataset.rounds[problem]
    record: dict[str, Any] = {
        "prompt": transcript.conversation(n, dataset.round)[:-1],
        "chosen": [_said(transcript, chosen, n)],
        "rejected": [_said(transcript, rejected, n)],
        "problem_id": problem,
        "round": dataset.round,
        "label": dataset.labels[problem],
        "consensus": answer,
    }
    # Model output may hold lone surrogates, which UTF-8 cannot: escape.
    return json.dumps(record, ensure_ascii=True) + "\n"


def _said(transcript: Transcript, round: int, agent: int) -> dict[str, str]:
    return {"role": "assistant", "content": transcript.answers[round - 1][agent].text}


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
            answers = [str(record[side][-1]["content"]) for side in ("chosen", "rejected")]
        except (TypeError, KeyError, IndexError) as error:
            raise DataError(f"{path}:{number}: not a preference pair ({error!r}); rerun selection") from error
        name = f"{record.get('problem_id', 'line')}:{number}"
        texts = [chat.sample([*prompt, {"role": "assistant", "content": answer}]) for answer in answers]
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
