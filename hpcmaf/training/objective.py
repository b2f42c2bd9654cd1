"""What a job's optimiser steps are after, in the form that the loop asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from hpcmaf.training.data import TokenSample, collate, share
from hpcmaf.training.loss import negative_log_likelihood
from hpcmaf.training.packing import share_packed
from hpcmaf.training.place import Place
from hpcmaf.training.spec import FinetuneJob


class Objective(Protocol):
    """A loss that is a sum over a step's samples, divided by a number known before.

    However a batch is cut into parts and processes, its loss is the same.

    Attributes
    ----------
    measures
        Names of what :meth:`measured` tells.
    """

    measures: tuple[str, ...]

    def weight(self, batch: Sequence[Any]) -> int:
        """What the sum over a whole step's batch is divided by."""
        ...

    def parts(self, batch: Sequence[Any]) -> list[Sequence[Any]]:
        """This process's forward passes, equally many in each process; some may be empty."""
        ...

    def loss(self, part: Sequence[Any], filler: Any) -> torch.Tensor:
        """Sum over a part; of an empty one 0, through ``filler``, as collectives must pair up."""
        ...

    def measured(self) -> list[float]:
        """Sums of each measure over this process's samples since the last call; divided by the weight of all."""
        ...


class Imitation:
    """To say what the dataset says: the negative log-likelihood of all target tokens over their number.

    Parameters
    ----------
    run
        What to call: the model under DeepSpeed.
    packed
        Whether texts share rows; the model must have been told to.
    """

    measures: tuple[str, ...] = ()

    def __init__(self, run: torch.nn.Module, job: FinetuneJob, place: Place, *, packed: bool) -> None:
        self._run, self._job, self._place, self._packed = run, job, place, packed

    def weight(self, batch: Sequence[TokenSample]) -> int:
        """Target tokens."""
        return sum(sample.target_tokens for sample in batch)

    def parts(self, batch: Sequence[TokenSample]) -> list[Sequence[TokenSample]]:
        """Packed rows, or padded micro-batches."""
        job, place = self._job, self._place
        if self._packed:
            # As many tokens as an unpacked micro-batch has at most.
            capacity = job.micro_batch_size * job.max_length
            return share_packed(batch, rank=place.rank, processes=place.processes, capacity=capacity)
        return share(batch, rank=place.rank, processes=place.processes, micro_batch_size=job.micro_batch_size)

    def loss(self, part: Sequence[TokenSample], filler: TokenSample) -> torch.Tensor:
        """Sum over the part's target tokens."""
        return negative_log_likelihood(
            self._run, collate(part, pad_id=0, filler=filler, packed=self._packed), self._place.device
        )

    def measured(self) -> list[float]:
        """Nothing but the loss."""
        return []
