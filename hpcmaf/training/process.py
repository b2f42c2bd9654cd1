"""One process among its job's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from hpcmaf.errors import PlatformError
from hpcmaf.training.config import FinetuneJob


@dataclass(frozen=True, slots=True)
class Process:
    """Rank among all processes of all nodes, their number, and this one's device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process prints and writes for all."""
        return self.rank == 0

    @property
    def cuda(self) -> bool:
        """Whether it computes on a GPU."""
        return self.device.type == "cuda"

    def summed(self, values: Sequence[float], operation: Any = dist.ReduceOp.SUM) -> list[float]:
        """Each value summed over all processes, all of which have to call this, once they are connected."""
        found = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.world_size > 1 and dist.is_initialized():
            dist.all_reduce(found, operation)
        return found.tolist()

    def largest(self, value: float) -> float:
        """The largest of all processes' values."""
        return self.summed([value], dist.ReduceOp.MAX)[0]

    def barrier(self) -> None:
        """Wait for all processes to have come here."""
        if self.world_size > 1:
            dist.barrier()

    def shared(self, value: Any) -> Any:
        """What the first process has, in all of them, all of which have to call this."""
        values = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(values, device=self.device)
        return values[0]

    @classmethod
    def of(cls, job: FinetuneJob) -> Process:
        """This process, by torchrun's variables.

        Raises
        ------
        PlatformError
            There is no GPU for it where one is wanted.
        """
        cuda = job.device != "cpu" and torch.cuda.is_available()
        if job.device == "cuda" and not cuda:
            raise PlatformError("finetuning: device is cuda, but torch finds no GPU; use device: cpu or auto")
        local = int(os.environ["LOCAL_RANK"])
        if cuda:
            if local >= torch.cuda.device_count():
                raise PlatformError(
                    f"finetuning: {job.processes} processes for {torch.cuda.device_count()} GPUs; lower processes"
                )
            torch.cuda.set_device(local)
        device = torch.device("cuda", local) if cuda else torch.device("cpu")
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), device)
