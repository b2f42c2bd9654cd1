"""What an iteration cost, summed from its ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SCHEMA = "hpcmaf-ledger/1"
SUMMED = ("prompt_tokens", "completion_tokens", "training_tokens", "calls", "wall_seconds", "gpu_seconds")
PEAK = "peak_memory_bytes"
# What a method needs to improve; the rest is for measuring it.
ROLLOUT = {"debate", "merge", "finetune"}


def total(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Sum ledger rows.

    Parameters
    ----------
    rows
        As in ``ledger.json``; a value that does not apply to a stage may be
        absent or null.

    Returns
    -------
    dict
        Tokens and calls; ``wall_seconds`` and ``gpu_seconds`` added up over
        jobs, so that jobs running side by side count each; the highest
        ``peak_memory_bytes`` of any.
    """
    sums: dict[str, float] = {name: sum(row.get(name) or 0 for row in rows) for name in SUMMED}
    return sums | {PEAK: max((row.get(PEAK) or 0 for row in rows), default=0)}


def split(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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
    evaluation = [row for row in rows if row.get("stage") not in ROLLOUT]
    tokens = [
        (row.get("agent") or "", (row.get("prompt_tokens") or 0) + (row.get("completion_tokens") or 0))
        for row in evaluation
    ]
    return {
        "practice": total([row for row in rows if row.get("stage") in ROLLOUT]),
        "evaluation": total(evaluation),
        "answering": {
            "answer": sum(count for agent, count in tokens if agent == "generator-0"),
            "vote@1": sum(count for agent, count in tokens if agent.startswith("generator-")),
            "vote@M": sum(count for _, count in tokens),
        },
    }
