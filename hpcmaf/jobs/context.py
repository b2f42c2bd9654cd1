"""What every stage task is given, and how far it is when it resumes."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hpcmaf.config.profile import Profile
from hpcmaf.config.recipe import Recipe
from hpcmaf.debate.methods import METHODS, SUMMARIZER, Method
from hpcmaf.files.publish import write_json
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage
from hpcmaf.training.checkpoint import checkpoint_step
from hpcmaf.training.launch import Workers
from hpcmaf.training.multinode import NodeRank
from hpcmaf.training.stop import StopFlag


@dataclass
class TaskContext:
    """One task of one stage of one run.

    Attributes
    ----------
    attempt
        Folder of this attempt's logs.
    ledger
        What the task has spent; it goes into its marker.
    afterwards
        Called once the marker is written: whatever a killed task would need
        to go on is thrown away here and not before.
    halvings
        How often batches are to be halved, because memory ran out before.
    stop
        Raised when the task has to save what it has and end.
    place
        This node's among several that do the task together.
    workers
        Processes that finetune several agents, one after another.
    keep_servers
        Whether vLLM servers run on for another task of this job.
    """

    run: RunDir
    plan: Plan
    profile: Profile
    stage: Stage
    task: str
    attempt: Path
    halvings: int = 0
    stop: StopFlag = field(default_factory=StopFlag)
    place: NodeRank | None = None
    workers: Workers | None = None
    keep_servers: bool = False
    ledger: list[dict[str, Any]] = field(default_factory=list)
    afterwards: list[Callable[[], None]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    _last_progress: float = 0.0

    @cached_property
    def recipe(self) -> Recipe:
        """The run's recipe."""
        return Recipe.model_validate(self.plan.recipe)

    @property
    def method(self) -> Method:
        """The run's row of the methods table."""
        return METHODS[self.recipe.method]

    @property
    def iteration(self) -> int:
        """Iteration the stage belongs to."""
        return self.stage.iteration

    def report_progress(self, done: int, total: int, unit: str, note: Callable[[], str] = str) -> None:
        """Write how far this task is, and what there is to say of it; at most once a second."""
        if time.monotonic() - self._last_progress < 1:
            return
        self._last_progress = time.monotonic()
        value = {"done": done, "total": total, "unit": unit, "note": note(), "pid": os.getpid()}
        write_json(self.run.progress(self.stage, self.task), value)

    def spend(self, agent: str | None = None, **amounts: Any) -> None:
        """Add a row to the task's ledger."""
        row: dict[str, Any] = {
            "stage": self.stage.kind,
            "iteration": self.iteration,
            "agent": agent,
            "calls": 0,
            "cut_off": 0,  # of the calls, those that ended at the limit on tokens
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "training_tokens": 0,
            "wall_seconds": 0.0,
            "gpu_seconds": 0.0,
            "peak_memory_bytes": 0,
            "engine": None,
        }
        if agent and self.recipe.agents:  # summarizer and judge are one model
            row["base"] = self.recipe.of(SUMMARIZER if agent == "judge" else agent).model.path
        self.ledger.append(row | amounts)


def resume_point(run: RunDir, stage: Stage, task: str) -> int:
    """Work that a new attempt need not repeat: it only grows while the task gets on.

    Bytes of the journal of a debate shard, optimiser steps of a finetuning job; 0 for tasks that keep nothing.
    """
    if stage.spec.resume is None:
        return 0
    kept = stage.spec.resume(run, stage.iteration, task)
    return kept.stat().st_size if kept.is_file() else checkpoint_step(kept)


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def limit_threads(threads: int) -> Mapping[str, str]:
    """Environment that holds numeric libraries to so many CPU threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {name: str(threads) for name in names} | {"TOKENIZERS_PARALLELISM": "false"}
