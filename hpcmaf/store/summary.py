"""Figures about a store, from its columns: no debate is assembled, no gold label read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from hpcmaf.store.reader import Store
from hpcmaf.store.schema import FINISH_REASONS, KINDS, VERSION

# Utterances looked at together.
_BLOCK = 1 << 14


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
        and unparsable answers agree with nobody), ``finish_reasons``,
        ``answer_bytes`` and ``summary_bytes`` (mean UTF-8 length; ``None``
        without summaries). Means are ``None`` in an empty store.
    """
    rounds = [_Round() for _ in range(store.info.rounds)]
    tokens = {kind: {"prompt": 0, "completion": 0} for kind in KINDS}
    for block in _blocks(store):
        for code, kind in enumerate(KINDS):
            chosen = block["kind"] == code
            tokens[kind]["prompt"] += int(block["prompt_tokens"][chosen].sum())
            tokens[kind]["completion"] += int(block["completion_tokens"][chosen].sum())
            for number, round in enumerate(rounds, start=1):
                round.add(kind, block, np.flatnonzero(chosen & (block["round"] == number)), store.info.agents)
    return {
        "path": str(store.path),
        "version": VERSION,
        **asdict(store.info),
        "problems": len(store),
        "utterances": store.utterance_rows(),
        "tokens": tokens,
        "by_round": [{"round": number, **round.figures()} for number, round in enumerate(rounds, start=1)],
    }


def _blocks(store: Store) -> Iterator[dict[str, Any]]:
    """Columns of whole problems at a time."""
    each = store.utterance_rows() // max(1, len(store))
    step = max(1, _BLOCK // max(1, each)) * each
    for low in range(0, store.utterance_rows(), max(1, step)):
        high = min(low + step, store.utterance_rows())
        names = ("kind", "round", "parsed", "prompt_tokens", "completion_tokens", "finish_reason")
        block: dict[str, Any] = {name: store.integers(f"utterances/{name}", low, high) for name in names}
        # Every second row of an exchange is what was said.
        block["bytes"] = np.diff(store.text_bounds("utterances/exchange", 2 * low, 2 * high))[1::2]
        block["answer"] = store.texts("utterances/answer", low, high)
        yield block


class _Round:
    """Sums over the utterances of one round."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(KINDS, 0)
        self.bytes = dict.fromkeys(KINDS, 0)
        self.parsed = 0
        self.problems = 0
        self.same = 0.0
        self.reasons: Counter[int] = Counter()

    def add(self, kind: str, block: dict[str, Any], rows: np.ndarray, agents: int) -> None:
        self.counts[kind] += len(rows)
        self.bytes[kind] += int(block["bytes"][rows].sum())
        self.reasons.update(block["finish_reason"][rows].tolist())
        if kind != "answer":
            return
        self.parsed += int(block["parsed"][rows].sum())
        # Stored in the order (problem, round, kind, agent): N answers of a
        # round lie together.
        for debate in rows.reshape(-1, agents).tolist():
            votes = Counter(block["answer"][row] for row in debate if block["parsed"][row])
            self.same += max(votes.values(), default=0) / agents
            self.problems += 1

    def figures(self) -> dict[str, Any]:
        return {
            "parsed": _mean(self.parsed, self.counts["answer"]),
            "same_answer": _mean(self.same, self.problems),
            "answer_bytes": _mean(self.bytes["answer"], self.counts["answer"]),
            "summary_bytes": _mean(self.bytes["summary"], self.counts["summary"]),
            "finish_reasons": {name: self.reasons[code] for code, name in enumerate(FINISH_REASONS)},
        }


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None
