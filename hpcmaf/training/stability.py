"""When a job has gone wrong."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from hpcmaf.errors import TrainingError
from hpcmaf.training.data import TokenSample

# A spike is judged by the losses of so many steps before it, and not from fewer than the first.
_FEWEST, _MOST = 8, 32
# In nats: a loss near 0 may rise to many times itself by chance.
_LEAST_RISE = 1.0


def check_gradients(finite: bool, step: int, total: int, batch: Sequence[TokenSample]) -> None:
    """Stop a job whose gradients are no finite numbers: a step without them is skipped or spoils all weights.

    Raises
    ------
    TrainingError
        They are not; names the step, counted from 1, and the samples of its batch.
    """
    if not finite:
        names = ", ".join(sample.id for sample in batch)
        raise TrainingError(
            f"diverged: the gradients of step {step} of {total} are not finite (samples {names}); "
            "lower the learning rate, or look at these samples"
        )


def check_loss(losses: Sequence[float], batch: Sequence[TokenSample], total: int, factor: float, full: int) -> None:
    """Stop a job that has diverged, before the step that shows it changes a weight.

    Parameters
    ----------
    losses
        Of all steps so far; the last is in question.
    factor
        A loss so many times the median of the steps before it is a spike, if
        it is also a nat above that; 0: none is.
    full
        Samples of a whole batch. The mean of few scatters more, so that of an
        epoch's last batch may rise further by the square root.
    """
    *before, loss = losses
    names = ", ".join(sample.id for sample in batch)
    where = f"diverged: the loss of step {len(losses)} of {total} is {loss:.6g}"
    if not math.isfinite(loss):
        raise TrainingError(f"{where} (samples {names}); lower the learning rate")
    recent = before[-_MOST:]
    if factor and len(recent) >= _FEWEST:
        usual = statistics.median(recent)
        scatter = math.sqrt(max(1.0, full / len(batch)))
        if loss > usual + scatter * max(usual * (factor - 1), _LEAST_RISE):
            raise TrainingError(
                f"{where}, more than {factor:g} times the usual {usual:.3g} (samples {names}); "
                "lower the learning rate, or raise training.loss_spike"
            )
