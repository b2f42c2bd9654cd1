"""Learning rate over the steps of a job."""

from __future__ import annotations

import math


def rate_factor(step: int, steps: int, schedule: str, warmup_ratio: float) -> float:
    """Factor on the learning rate of a 0-based step.

    Warm-up rises linearly over the first ``ceil(warmup_ratio * steps)`` steps
    and reaches 1 at its end; unlike the usual one it does not waste the first
    step on a rate of 0. Decay ends just above 0 at the last step.
    """
    warmup = math.ceil(warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant" or step >= steps:
        return 1.0 if schedule == "constant" else 0.0
    done = (step - warmup) / (steps - warmup)
    return 1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
