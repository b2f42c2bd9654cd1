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


def diverged(what: str, batch: Sequence[TokenSample], remedy: str = "lower the learning rate") -> TrainingError:
    """The error of a job that has gone wrong at a batch of samples."""
    names = ", ".join(sample.id for sample in batch)
    return TrainingError(f"diverged: {what} (samples {names}); {remedy}")


def check_loss(losses: Sequence[float], batch: Sequence[TokenSample], total: int, factor: float, full: int) -> None:
    """Stop a job that has diverged, before the step that shows it changes a weight.

    Parameters
    ----------
    losses
        Of all steps so far; the last is in question.
    factor
        A loss so many times the median of the steps before it is a spike, if it is also a nat above that; 0: none is.
    full
        Samples of a whole batch. The mean of few scatters more, so that of an
        epoch's last batch may rise further by the square root.
    """
    *before, loss = losses
    where = f"the loss of step {len(losses)} of {total} is {loss:.6g}"
    if not math.isfinite(loss):
        raise diverged(where, batch)
    recent = before[-_MOST:]
    if factor and len(recent) >= _FEWEST:
        usual = statistics.median(recent)
        scatter = math.sqrt(max(1.0, full / len(batch)))
        if loss > usual + scatter * max(usual * (factor - 1), _LEAST_RISE):
            remedy = "lower the learning rate, or raise training.loss_spike"
            raise diverged(f"{where}, more than {factor:g} times the usual {usual:.3g}", batch, remedy)
