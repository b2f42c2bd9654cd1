"""What a job logs while it runs."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hpcmaf.training.data import TokenSample
from hpcmaf.training.process import Process

# Steps at the beginning that are waited for.
_SETTLED = 2


class Metrics:
    """Progress of one job, from now on: ``progress.jsonl``, and TensorBoard's files where it is installed.

    Only the first process writes them.

    Parameters
    ----------
    folder
        Takes them; TensorBoard's files go into ``tensorboard`` there.
    total, flop_per_token
        Optimiser steps of the job, and its useful work.
    """

    def __init__(self, process: Process, folder: Path, total: int, flop_per_token: int) -> None:
        self._process, self._total, self._flop = process, total, flop_per_token
        self._began, self._tokens, self._steps = time.monotonic(), 0, 0
        self._file = (folder / "progress.jsonl").open("a", encoding="ascii") if process.first else None
        self._tensorboard = _tensorboard(folder / "tensorboard") if process.first else None

    def step(
        self, step: int, loss: float, rate: float, batch: Sequence[TokenSample], more: Mapping[str, float]
    ) -> None:
        """Log an optimiser step that is done; ``more`` is what the objective measured besides its loss."""
        self._tokens += sum(len(sample.input_ids) for sample in batch)
        self._steps += 1
        if self._file is None:
            return
        if self._process.cuda and (self._steps <= _SETTLED or step == self._total):
            # The GPU is behind what it is given; a speed between two such steps is exact.
            torch.cuda.synchronize()
        elapsed = time.monotonic() - self._began
        speed = self._tokens / elapsed
        # Of one process's device.
        flops = speed * self._flop / self._process.world_size
        values: dict[str, float] = {
            "loss": loss,
            **more,
            "learning_rate": rate,
            "tokens_per_s": round(speed, 1),
            "tflops": float(f"{flops / 1e12:.3g}"),
            "elapsed_s": round(elapsed, 3),
            "eta_s": round(elapsed / self._steps * (self._total - step), 1),
        }
        if self._process.cuda:
            values["memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        self._file.write(json.dumps({"step": step, "steps": self._total} | values) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)
            self._tensorboard.flush()

    def close(self) -> None:
        """The job is over, well or not."""
        for sink in (self._file, self._tensorboard):
            if sink is not None:
                sink.close()


def _tensorboard(folder: Path) -> Any:
    """PyTorch's writer, where TensorBoard is installed; ``None`` elsewhere. A job that resumes adds to its curve."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
