"""What an iteration cost, summed from its ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

SCHEMA = "hpcmaf-ledger/1"
SUMMED = (
    "prompt_tokens",
    "completion_tokens",
    "training_tokens",
    "calls",
    "wall_seconds",
    "gpu_seconds",
)
PEAK = "peak_memory_bytes"
# What a method needs to improve; the rest is for measuring it.
PRACTICE = {"debate", "merge", "finetune"}


def total(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Sum ledger rows.

    Parameters
    ----------
    rows
        As in ``ledger.json``; a figure that does not apply to a stage may be
        absent or null.

    Returns
    -------
    dict
        Tokens and calls; ``wall_seconds`` and ``gpu_seconds`` added up over
        jobs, so that jobs running side by side count each; the highest
        ``peak_memory_bytes`` of any.
    """
    sums: dict[str, float] = dict.fromkeys((*SUMMED, PEAK), 0)
    for row in rows:
        for name in SUMMED:
            sums[name] += row.get(name) or 0
        sums[PEAK] = max(sums[PEAK], row.get(PEAK) or 0)
    return sums


def split(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What improving cost, and what an answer costs.

    Returns
    -------
    dict
        ``practice``, ``evaluation``: as :func:`total`, of the stages that
        make an iteration's models and of those that measure them.
        ``answering``: tokens, prompt and completion, by inference measure:
        ``answer`` takes generator 0, ``vote@1`` all generators, ``vote@M``
        everybody and the summarizer.
    """
    rows = list(rows)
    practice = total(row for row in rows if row.get("stage") in PRACTICE)
    evaluation = [row for row in rows if row.get("stage") not in PRACTICE]
    answering = {"answer": 0, "vote@1": 0, "vote@M": 0}
    for row in evaluation:
        tokens = (row.get("prompt_tokens") or 0) + (row.get("completion_tokens") or 0)
        agent = row.get("agent") or ""
        answering["answer"] += tokens * (agent == "generator-0")
        answering["vote@1"] += tokens * agent.startswith("generator-")
        answering["vote@M"] += tokens
    return {"practice": practice, "evaluation": total(evaluation), "answering": answering}
