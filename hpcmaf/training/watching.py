"""What a job tells while it runs."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hpcmaf.errors import ConfigError
from hpcmaf.training.data import TokenSample
from hpcmaf.training.process import Process
from hpcmaf.training.spec import FinetuneJob

# Steps at the beginning that are waited for.
_SETTLED = 2


class Watch:
    """Progress of one job: ``progress.jsonl``, TensorBoard's files where it is installed, W&B where asked for.

    Parameters
    ----------
    steps
        The JSONL; TensorBoard's files go into ``tensorboard`` beside it.
    total, flop_per_token
        Optimiser steps of the job, and its useful work.
    """

    def __init__(self, job: FinetuneJob, process: Process, steps: Path, total: int, flop_per_token: int) -> None:
        self._process, self._total, self._flop = process, total, flop_per_token
        self._began, self._tokens, self._steps = time.monotonic(), 0, 0
        self._file = steps.open("a", encoding="ascii") if process.first else None
        self._events = _tensorboard(steps.parent / "tensorboard") if process.first else None
        self._wandb = _wandb(job, steps.parent) if process.first and job.wandb else None
        self.ceiling = matmul_flops(process.device) if process.device.type == "cuda" else None

    def begin(self) -> None:
        """Time counts from here."""
        self._began = time.monotonic()

    def step(
        self, step: int, loss: float, rate: float, batch: Sequence[TokenSample], more: Mapping[str, float] | None = None
    ) -> None:
        """Tell of an optimiser step that is done; ``more`` is what the objective measured besides its loss."""
        self._tokens += sum(len(sample.input_ids) for sample in batch)
        self._steps += 1
        if self._file is None:
            return
        if self._process.device.type == "cuda" and (self._steps <= _SETTLED or step == self._total):
            # The GPU is behind what it is told; a speed between two such steps is exact.
            torch.cuda.synchronize()
        elapsed = time.monotonic() - self._began
        speed = self._tokens / elapsed
        # Of one process's device.
        flops = speed * self._flop / self._process.world_size
        line: dict[str, Any] = {
            "step": step,
            "steps": self._total,
            "loss": loss,
            **(more or {}),
            "learning_rate": rate,
            "tokens_per_s": round(speed, 1),
            "tflops": float(f"{flops / 1e12:.3g}"),
            "elapsed_s": round(elapsed, 3),
            "eta_s": round(elapsed / self._steps * (self._total - step), 1),
        }
        if self.ceiling is not None:
            line["ceiling_share"] = round(flops / self.ceiling, 3)
            line["memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        values = {name: value for name, value in line.items() if name not in ("step", "steps")}
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
            self._events.flush()
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def close(self) -> None:
        """The job is over, well or not."""
        for sink in (self._file, self._events):
            if sink is not None:
                sink.close()
        if self._wandb is not None:
            self._wandb.finish()


def matmul_flops(device: torch.device, size: int = 8192, repeats: int = 10) -> float:
    """Floating-point operations per second of a large bfloat16 matrix product, measured here and now (0.05 s)."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    for _ in range(3):
        torch.mm(a, b, out=out)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        torch.mm(a, b, out=out)
    end.record()
    end.synchronize()
    return 2 * size**3 * repeats / (begin.elapsed_time(end) / 1e3)


def _tensorboard(folder: Path) -> Any:
    """PyTorch's writer, where TensorBoard is installed; ``None`` elsewhere. A job that resumes adds to its curve."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def _wandb(job: FinetuneJob, folder: Path) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            f"finetuning.wandb is {job.wandb!r}, but wandb is not installed; pip install wandb, or leave it out"
        ) from error
    return wandb.init(project=job.wandb, name=f"{job.agent or 'model'}-{job.iteration}", dir=str(folder))
