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
