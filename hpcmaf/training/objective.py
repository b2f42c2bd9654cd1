"""What a job learns from: an objective makes of each batch a loss, and the loop takes the steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from hpcmaf.training.attention import boundaries, to_device
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.data import IGNORED, MicroBatch, TokenSample, collate, share
from hpcmaf.training.model import inner_model
from hpcmaf.training.process import Process


class Objective:
    """A loss that is a sum over a step's samples, divided by a number known before.

    However a batch is cut into parts and processes, its loss is the same.

    Parameters
    ----------
    run
        What to call: the model under DeepSpeed.
    samples
        All of the job's; the model is still as the job starts. Every process has to come here with the same.
    packed
        Whether texts share rows; the model's attention must be prepared for it.

    Attributes
    ----------
    measures
        Names of what :meth:`measured` returns.
    """

    measures: tuple[str, ...] = ()

    def __init__(
        self, run: torch.nn.Module, job: FinetuneJob, process: Process, samples: Sequence[Any], *, packed: bool
    ) -> None:
        self._run, self._job, self._process, self._packed = run, job, process, packed
        self._sums = torch.zeros(len(self.measures), dtype=torch.float64, device=process.device)
        self.prepare(samples)

    def prepare(self, samples: Sequence[Any]) -> None:
        """Before the job's first step: keep what its loss takes from the model as it starts."""

    def begin(self, batch: Sequence[Any]) -> None:
        """Before a step's first forward pass: find what its loss takes from the whole batch."""

    def weight(self, batch: Sequence[Any]) -> int:
        """What the sum over a whole step's batch is divided by: samples, unless an objective says otherwise."""
        return len(batch)

    def total(self, part: Sequence[Any]) -> torch.Tensor:
        """Sum over a part."""
        raise NotImplementedError

    def loss(self, part: Sequence[Any], filler: Any) -> torch.Tensor:
        """Sum over a part; of an empty one 0, through ``filler``, as collectives must pair up."""
        if part:
            return self.total(part)
        batch = collate(self.texts([filler]), packed=self._packed)
        batch.labels.fill_(IGNORED)
        return negative_log_likelihood(self._run, batch, self._process.device).sum()

    def texts(self, samples: Sequence[Any]) -> Sequence[TokenSample]:
        """What a forward pass reads of some samples."""
        return samples

    def measured(self) -> list[float]:
        """Sums of each measure over this process's samples since the last call; divided by the weight of all."""
        sums = self._sums.tolist()
        self._sums.zero_()
        return sums

    def parts(self, batch: Sequence[Any]) -> list[Sequence[Any]]:
        """This process's forward passes, equally many in each process; some may be empty."""
        return share(
            batch,
            rank=self._process.rank,
            processes=self._process.world_size,
            micro_batch_size=max(1, self._job.micro_batch_size // len(self.texts(batch[:1]))),
            # As many tokens as an unpacked micro-batch has at most.
            capacity=self._job.micro_batch_size * self._job.max_length if self._packed else None,
        )

    def likelihood(self, part: Sequence[Any]) -> tuple[MicroBatch, torch.Tensor]:
        """A forward pass and :func:`negative_log_likelihood` of it."""
        batch = collate(self.texts(part), packed=self._packed)
        return batch, negative_log_likelihood(self._run, batch, self._process.device)

    def likelihoods(self, part: Sequence[Any]) -> torch.Tensor:
        """Log-likelihood of each text's targets, in nats: float32[texts]."""
        batch, unlikely = self.likelihood(part)
        if batch.lengths is None:
            return -unlikely.sum(1)
        ends = torch.tensor(batch.lengths).cumsum(0)
        text = torch.bucketize(batch.keep, ends, right=True).to(unlikely.device)
        return -unlikely.new_zeros(len(batch.lengths)).index_add(0, text, unlikely[0])

    def evaluate(self, samples: Sequence[Any], measure: Callable[[Sequence[Any]], Sequence[Any]]) -> dict[str, Any]:
        """What ``measure(part)`` finds of each sample in the model as it is now, by id; in all processes."""
        found: dict[str, Any] = {}
        training = self._run.training
        self._run.eval()
        with torch.no_grad():
            for part in self.parts(samples):
                if part:
                    found |= {sample.id: value for sample, value in zip(part, measure(part), strict=True)}
                else:
                    self.loss(part, samples[0])
        self._run.train(training)
        everyones = [found] * self._process.world_size
        if self._process.world_size > 1:
            dist.all_gather_object(everyones, found)
        return {name: value for own in everyones for name, value in own.items()}


def negative_log_likelihood(model: torch.nn.Module, batch: MicroBatch, device: torch.device) -> torch.Tensor:
    """Of each target token of a micro-batch, in nats: float32[B, K], 0 where there is no target.

    Logits are made where a target follows only: with a vocabulary of 128k
    those of a whole text take more memory than the model's activations.
    """
    arguments: dict[str, object] = {"input_ids": to_device(batch.input_ids, device)}
    if batch.lengths is not None:
        arguments |= boundaries(batch.lengths, device)
    elif batch.attention_mask is not None:
        arguments["attention_mask"] = to_device(batch.attention_mask, device)
    keep, labels = to_device(batch.keep, device), to_device(batch.labels, device)
    if "logits_to_keep" in inspect.signature(inner_model(model).forward).parameters:
        logits = model(**arguments, use_cache=False, logits_to_keep=keep).logits
    else:
        logits = model(**arguments, use_cache=False).logits[:, keep]
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(labels)
