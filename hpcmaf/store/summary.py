"""Counts, shares and means of a store; no gold label is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from statistics import fmean
from typing import Any

from hpcmaf.debate.transcript import Utterance
from hpcmaf.store.reader import Store
from hpcmaf.store.schema import FINISH_REASONS, KINDS, VERSION, encode


def summarise(store: Store) -> dict[str, Any]:
    """Counts, shares and means of a store.

    Returns
    -------
    dict
        ``problems``, ``utterances``, the fields of ``StoreInfo``; ``tokens``
        by kind; and a list ``by_round`` with, per round, ``parsed`` (share of
        answers from which an answer could be taken), ``same_answer`` (mean
        over problems of the share of agents that gave the commonest answer;
        spelling counts, so it is a lower bound of agreement by equivalence,
        and unparsable answers agree with none), ``finish_reasons``,
        ``answer_bytes`` and ``summary_bytes`` (mean UTF-8 length; ``None``
        without summaries). Means are ``None`` in an empty store.
    """
    utterances, tokens = 0, {kind: {"prompt": 0, "completion": 0} for kind in KINDS}
    rounds = [_Round() for _ in range(store.info.rounds)]
    for transcript in store:
        for turns in (*transcript.answers, *transcript.summaries):
            utterances += len(turns)
            rounds[turns[0].round - 1].add(turns)
            tokens[turns[0].kind]["prompt"] += sum(turn.prompt_tokens for turn in turns)
            tokens[turns[0].kind]["completion"] += sum(turn.completion_tokens for turn in turns)
    return {
        "path": str(store.path),
        "version": VERSION,
        **asdict(store.info),
        "problems": len(store),
        "utterances": utterances,
        "tokens": tokens,
        "by_round": [{"round": number, **round.means()} for number, round in enumerate(rounds, start=1)],
    }


class _Round:
    """What is measured of one round, problem by problem."""

    def __init__(self) -> None:
        self.bytes: dict[str, list[int]] = {kind: [] for kind in KINDS}
        self.parsed: list[bool] = []
        self.same: list[float] = []
        self.reasons: Counter[str] = Counter(dict.fromkeys(FINISH_REASONS, 0))

    def add(self, turns: tuple[Utterance, ...]) -> None:
        self.bytes[turns[0].kind] += [len(encode(turn.text)) for turn in turns]
        self.reasons.update(turn.finish_reason for turn in turns)
        if turns[0].kind == "answer":
            self.parsed += [turn.answer is not None for turn in turns]
            votes = Counter(turn.answer for turn in turns if turn.answer is not None)
            self.same.append(max(votes.values(), default=0) / len(turns))

    def means(self) -> dict[str, Any]:
        return {
            "parsed": _mean(self.parsed),
            "same_answer": _mean(self.same),
            "answer_bytes": _mean(self.bytes["answer"]),
            "summary_bytes": _mean(self.bytes["summary"]),
            "finish_reasons": dict(self.reasons),
        }


def _mean(values: list[Any]) -> float | None:
    return fmean(values) if values else None
