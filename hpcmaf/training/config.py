"""What a finetuning job is and what it reports: data that its processes share as JSON. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from hpcmaf.config.profile import Finetuning
from hpcmaf.config.recipe import Training
from hpcmaf.errors import ConfigError
from hpcmaf.files.publish import first_fault, write_json
from hpcmaf.models.chat import DATE


class FinetuneJob(Training, Finetuning):
    """Finetuning of one model on one dataset: a recipe's ``training``, a profile's ``finetuning``, and which files.

    Attributes
    ----------
    base
        Folder or hub id of the base model; its tokenizer and chat template are used whatever ``start`` is.
    dataset
        JSONL with ``messages`` per line, as selection writes it; with
        ``prompt``, ``chosen`` and ``rejected`` for ``"dpo"``.
    output
        Folder to publish.
    start
        Previous adapter (LoRA) or checkpoint (full); ``None`` is the base.
    date, chat_template, chat_template_kwargs
        How chats are rendered, as in the debates.
    dtype
        Of the weights in computation; ``"auto"`` is the checkpoint's own on a GPU and float32 on CPU. float16, which
        needs loss scaling, becomes bfloat16 (float32 on CPU).
    max_grad_norm
        Clipping of the global gradient norm; 0 is none.
    nodes
        Machines, with ``processes`` on each of them.
    checkpoints
        Folder for what a killed job resumes from, on a file system that all nodes share; ``None``: it begins again.
    checkpoint_seconds, checkpoint_steps
        A checkpoint is written after the first step that ends so long after
        the one before it, or after every so many steps.
    seed, iteration, agent
        Decide every draw together, so that two agents with the same data still differ in order and initial adapter.
    """

    base: str
    dataset: str
    output: str
    start: str | None = None
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    trust_remote_code: bool = False
    date: str = DATE
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = {}
    max_grad_norm: float = Field(1.0, ge=0)
    nodes: int = Field(1, ge=1)
    checkpoints: str | None = None
    checkpoint_seconds: float = Field(600.0, gt=0)
    checkpoint_steps: int | None = Field(None, ge=1)
    seed: int = 0
    iteration: int = 1
    agent: str = ""

    def __init__(self, **values: Any) -> None:
        """Raise ``ConfigError`` where a value is impossible."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(f"finetuning: {first_fault(error)}") from error

    @model_validator(mode="after")
    def _everybody_computes(self) -> Self:
        if self.batch_size < self.nodes * self.processes:
            raise ValueError(
                f"batch_size {self.batch_size} is less than the number of processes, {self.nodes * self.processes}; "
                "raise it, or some would never have a sequence"
            )
        return self

    @property
    def alone(self) -> bool:
        """Whether one process does it, on one node."""
        return self.nodes * self.processes == 1

    def rate_factor(self, step: int, steps: int) -> float:
        """Factor on the learning rate of a 0-based step.

        Warm-up rises linearly over the first ``ceil(warmup_ratio * steps)`` steps and reaches 1 at its end; unlike the
        usual one it does not waste the first step on a rate of 0. Decay ends just above 0 at the last step.
        """
        warmup = math.ceil(self.warmup_ratio * steps)
        if step < warmup:
            return (step + 1) / warmup
        if self.schedule == "constant" or step >= steps:
            return 1.0 if self.schedule == "constant" else 0.0
        done = (step - warmup) / (steps - warmup)
        return 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2

    def replace(self, **changes: Any) -> Self:
        """The same job but for some values; ``ConfigError`` where they are impossible."""
        return type(self)(**self.model_dump() | changes)

    def write(self, path: Path) -> None:
        """Write the job as JSON."""
        write_json(path, self.model_dump())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a job written by :meth:`write`."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class FinetuneReport:
    """What a job did; ``training.json`` of its output folder.

    Attributes
    ----------
    samples, dropped_too_long
        Samples trained on, and those left out because they were longer than
        ``max_length`` or the model's context. Together: the dataset's lines.
    training_tokens
        Tokens of all texts trained on, prompt and target, times epochs.
    target_tokens
        Those of them that carry loss, times epochs.
    steps, losses, final_loss
        Optimiser steps, and each one's mean loss per target token; the last.
        ``None`` after 0 steps: an agent without data keeps its model.
    wall_seconds, gpu_seconds
        From start to publication, start-up included, with what went into the checkpoint that the job resumed from;
        times processes where each had a GPU, else 0.
    startup_seconds
        From start to the first optimiser step.
    peak_memory_bytes
        Largest of any process: GPU memory allocated, or resident set on CPU.
    """

    samples: int
    dropped_too_long: int
    training_tokens: int
    target_tokens: int
    steps: int
    final_loss: float | None
    losses: Sequence[float]
    wall_seconds: float
    startup_seconds: float
    peak_memory_bytes: int
    gpu_seconds: float

    @classmethod
    def of(cls, counts: Mapping[str, Any], began: float) -> Self:
        """Out of what a job's processes have counted, and the Unix time at which this attempt began."""
        own = dict(counts)
        ready, earlier, gpus = (own.pop(name) for name in ("ready", "earlier_seconds", "gpus"))
        wall = time.time() - began + earlier
        return cls(**own, startup_seconds=ready - began, wall_seconds=wall, gpu_seconds=wall * gpus)


def check_packages(*, quantize: str) -> None:
    """Refuse, by ``ConfigError``, a training that lacks a package here; imports none."""
    if quantize == "4bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("training.quantize is 4bit, but bitsandbytes is not installed; pip install 'hpcmaf[qlora]'")
