"""Supervised finetuning: to say what the dataset says."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hpcmaf.training.data import TokenSample, collate, share
from hpcmaf.training.loss import negative_log_likelihood
from hpcmaf.training.packing import share_packed
from hpcmaf.training.process import Process
from hpcmaf.training.spec import FinetuneJob


class Sft:
    """The negative log-likelihood of all target tokens over their number.

    Parameters
    ----------
    run
        What to call: the model under DeepSpeed.
    packed
        Whether texts share rows; the model's attention must be prepared for it.
    """

    measures: tuple[str, ...] = ()

    def __init__(self, run: torch.nn.Module, job: FinetuneJob, process: Process, *, packed: bool) -> None:
        self._run, self._job, self._process, self._packed = run, job, process, packed

    def weight(self, batch: Sequence[TokenSample]) -> int:
        """Target tokens."""
        return sum(sample.target_tokens for sample in batch)

    def parts(self, batch: Sequence[TokenSample]) -> list[Sequence[TokenSample]]:
        """Packed rows, or padded micro-batches."""
        job, own = self._job, {"rank": self._process.rank, "processes": self._process.world_size}
        if self._packed:
            # As many tokens as an unpacked micro-batch has at most.
            return share_packed(batch, capacity=job.micro_batch_size * job.max_length, **own)
        return share(batch, micro_batch_size=job.micro_batch_size, **own)

    def loss(self, part: Sequence[TokenSample], filler: TokenSample) -> torch.Tensor:
        """Sum over the part's target tokens."""
        batch = collate(part, pad_id=0, filler=filler, packed=self._packed)
        return negative_log_likelihood(self._run, batch, self._process.device).sum()

    def measured(self) -> list[float]:
        """Nothing but the loss."""
        return []
