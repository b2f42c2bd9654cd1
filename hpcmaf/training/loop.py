"""The optimiser steps of a job, whatever it learns from.

The :mod:`hpcmaf.training.objective` makes of each batch what its loss is a sum
over, and what that is divided by; the loop adds up forward passes, and steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from hpcmaf.training.checkpointer import Checkpointer
from hpcmaf.training.data import TokenSample
from hpcmaf.training.engine import finite_step
from hpcmaf.training.metrics import Metrics
from hpcmaf.training.objective import Objective
from hpcmaf.training.process import Process
from hpcmaf.training.stability import check_loss, diverged
from hpcmaf.training.stop import StopFile

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


def train(
    engine: DeepSpeedEngine,
    objective: Objective,
    batches: Sequence[Sequence[TokenSample]],
    before: Sequence[float],
    process: Process,
    metrics: Metrics,
    checkpointer: Checkpointer,
    stop: StopFile,
    *,
    loss_spike: float,
) -> list[float]:
    """All optimiser steps that are still to do; returns each one's loss, fewer if the job was stopped.

    The loss of a step is the sum over all samples of the global batch, divided by their weight, however the batch is
    cut into forward passes and processes.

    Parameters
    ----------
    batches, before
        Those of all steps, and losses of the steps that a checkpoint has already.
    stop
        When requested in any process, all stop after the same step, with a checkpoint.
    loss_spike
        See :func:`hpcmaf.training.stability.check_loss`.

    Raises
    ------
    TrainingError
        The losses diverge, or gradients are not finite; raised before that step changes any weight.
    """
    losses = list(before)
    for step, batch in enumerate(batches[len(before) :], len(before) + 1):
        objective.begin(batch)
        weight, parts = objective.weight(batch), objective.parts(batch)
        total = torch.zeros((), dtype=torch.float64, device=process.device)
        for position, part in enumerate(parts, 1):
            engine.set_gradient_accumulation_boundary(position == len(parts))
            loss = objective.loss(part, batch[0])
            total += loss.detach()
            # DeepSpeed averages gradients over processes; the loss is a sum over them.
            engine.backward(loss * (process.world_size / weight), scale_wrt_gas=False)
        summed, stopping, due, *measured = process.summed(
            [total.item(), stop.requested, checkpointer.due(step), *objective.measured()]
        )
        losses.append(summed / weight)
        check_loss(losses, batch, len(batches), loss_spike, full=len(batches[0]))
        rate = engine.get_lr()[0]
        if not finite_step(engine):
            what = f"the gradients of step {step} of {len(batches)} are not finite"
            raise diverged(what, batch, "lower the learning rate, or look at these samples")
        more = {name: value / weight for name, value in zip(objective.measures, measured, strict=True)}
        metrics.step(step, losses[-1], rate, batch, more)
        # After the last step the model itself is published at once.
        if (stopping or due) and step < len(batches):
            checkpointer.save(engine, losses)
            if stopping:
                break
    return losses
