"""What one finetuning job reports. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class FinetuneReport:
    """What a job did; ``training.json`` of its output folder.

    Attributes
    ----------
    samples, dropped_too_long
        Samples trained on, and those left out because they were longer than
        ``max_length`` or the model's context. Together: the dataset's lines.
    training_tokens
        Tokens of all texts trained on, prompt and target, times epochs.
    target_tokens
        Those of them that carry loss, times epochs.
    steps, losses, final_loss
        Optimiser steps, and each one's mean loss per target token; the last.
        ``None`` after 0 steps: an agent without data keeps its model.
    wall_seconds, gpu_seconds
        From start to publication, start-up included, with what went into the
        checkpoint that the job went on from; times processes where each held
        a GPU, else 0.
    startup_seconds, startup
        From start to the first optimiser step, and what of it went into each
        part: launch (processes and imports), data, weights, adapter, kernels
        (which ones, and rounding the base), engine (DeepSpeed's), check (of
        packing, and resuming).
    peak_memory_bytes
        Largest of any process: GPU memory allocated, or resident set on CPU.
    """

    samples: int
    dropped_too_long: int
    training_tokens: int
    target_tokens: int
    steps: int
    final_loss: float | None
    losses: tuple[float, ...]
    wall_seconds: float
    startup_seconds: float
    peak_memory_bytes: int
    gpu_seconds: float
    startup: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, counts: Mapping[str, Any], wall: float) -> Self:
        """Out of what a job's processes have counted, and the seconds that this attempt took."""
        own = dict(counts)
        gpus, wall = own.pop("gpus"), wall + own.pop("earlier_seconds")
        own["losses"] = tuple(own["losses"])
        return cls(**own, wall_seconds=wall, gpu_seconds=wall * gpus)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "losses": list(self.losses), "schema": "hpcmaf-training/1"}
