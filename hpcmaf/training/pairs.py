"""Preference pairs in tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcmaf.engines.chat import ChatFormat
from hpcmaf.errors import DataError
from hpcmaf.training.data import TokenData, TokenSample, dataset_lines


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
