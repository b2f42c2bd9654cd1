"""The optimiser steps of a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from hpcmaf.training.data import TokenSample, collate, share
from hpcmaf.training.divergence import check_loss
from hpcmaf.training.keeper import Keeper
from hpcmaf.training.loss import negative_log_likelihood
from hpcmaf.training.packing import share_packed
from hpcmaf.training.place import Place
from hpcmaf.training.spec import FinetuneJob
from hpcmaf.training.stopping import StopFlag
from hpcmaf.training.watching import Watch

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


def train(
    engine: DeepSpeedEngine,
    batches: Sequence[Sequence[TokenSample]],
    before: Sequence[float],
    job: FinetuneJob,
    place: Place,
    watch: Watch,
    keeper: Keeper,
    stop: StopFlag,
    packed: bool = False,
) -> list[float]:
    """All optimiser steps that are still to do.

    The loss of a step is the sum of the negative log-likelihoods of all
    target tokens of the global batch over their number, however the batch is
    cut into micro-batches and processes.

    Parameters
    ----------
    batches
        Those of all steps.
    before
        Losses of the steps that a checkpoint holds already.
    stop
        When asked in any process, all stop after the same step, with a
        checkpoint.
    packed
        Whether texts share rows; the model must have been told to. The batch
        of a step is the same either way.

    Returns
    -------
    list of float
        Each step's loss; fewer than ``batches`` if the job was stopped.

    Raises
    ------
    TrainingError
        The losses diverge; raised before that step changes any weight.
    """
    losses = list(before)
    watch.begin()
    for step, batch in enumerate(batches[len(before) :], len(before) + 1):
        target_tokens = sum(sample.target_tokens for sample in batch)
        micros = _micro_batches(batch, job, place, packed)
        total = torch.zeros((), dtype=torch.float64, device=place.device)
        for position, micro in enumerate(micros, 1):
            engine.set_gradient_accumulation_boundary(position == len(micros))
            nll = negative_log_likelihood(
                engine, collate(micro, pad_id=0, filler=batch[0], packed=packed), place.device
            )
            # DeepSpeed averages gradients over processes; the loss is a sum over them.
            engine.backward(nll * (place.processes / target_tokens), scale_wrt_gas=False)
            total += nll.detach()
        # What the processes have to agree on travels with the loss.
        wishes = torch.tensor([stop.requested, keeper.due(step)], dtype=torch.float64, device=place.device)
        agreed = torch.cat((total[None], wishes))
        if place.processes > 1:
            dist.all_reduce(agreed)
        nll_sum, stopping, due = agreed.tolist()
        losses.append(nll_sum / target_tokens)
        check_loss(losses, batch, len(batches), job.loss_spike)
        rate = engine.get_lr()[0]
        engine.step()
        watch.step(step, losses[-1], rate, batch)
        # After the last step the model itself is published at once.
        if (stopping or due) and step < len(batches):
            keeper.save(losses)
            if stopping:
                break
    return losses


def _micro_batches(
    batch: Sequence[TokenSample], job: FinetuneJob, place: Place, packed: bool
) -> list[Sequence[TokenSample]]:
    if packed:
        # As many tokens as an unpacked micro-batch has at most.
        capacity = job.micro_batch_size * job.max_length
        return share_packed(batch, rank=place.rank, processes=place.processes, capacity=capacity)
    return share(batch, rank=place.rank, processes=place.processes, micro_batch_size=job.micro_batch_size)
