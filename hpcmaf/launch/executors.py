"""submitit executors for a profile's kinds of tasks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import submitit

from hpcmaf.config.profile import Profile
from hpcmaf.jobs.context import limit_threads
from hpcmaf.jobs.task import run_task
from hpcmaf.run.attempts import begin
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Stage
from hpcmaf.training.launch import Workers

# submitit wants a limit; a laptop has none. Thirty days.
_NO_LIMIT_MINUTES = 30 * 24 * 60


def visible_gpus() -> list[str]:
    """GPUs this process may use, found without loading torch: numbers, or names such as ``GPU-...`` and ``MIG-...``."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is not None:
        # CUDA reads no further than a name that stands for none.
        names = (name.strip() for name in asked.split(","))
        return list(takewhile(lambda name: name not in {"", "-1", "NoDevFiles"}, names))
    return sorted((path.name[6:] for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit()), key=int)


def submit_local(
    run: RunDir, stage: Stage, tasks: Sequence[str], attempt: Path, plan_identity: str, profile: Profile, slot: int
) -> submitit.Job[None]:
    """Start one job on this machine.

    Parameters
    ----------
    tasks
        What it does, one after another; several are agents, which share
        processes.
    attempt
        Of the first task; the folder for the job's pickles and logs.
    slot
        Which of the side-by-side places it takes; with GPUs, slots share them
        in turn.
    """
    resources = profile.finetuning if stage.kind == "finetune" else profile.generation
    processes = profile.finetuning.processes if stage.kind == "finetune" else profile.generation.gpus
    executor = submitit.LocalExecutor(str(attempt))
    gpus = visible_gpus() if resources.device != "cpu" and stage.kind in {"debate", "eval", "finetune"} else []
    mine = [gpus[(slot * processes + k) % len(gpus)] for k in range(min(processes, len(gpus)))]
    executor.update_parameters(timeout_min=_NO_LIMIT_MINUTES)
    with _environment(dict(limit_threads(resources.threads))), _errors_into(attempt / "controller.err"):
        root, folder = str(run.root.resolve()), str(attempt.resolve())
        if len(tasks) == 1:
            return executor.submit(_with_gpus, mine, run_task, root, stage.id, tasks[0], folder, plan_identity)
        return executor.submit(_with_gpus, mine, run_agents, root, stage, tuple(tasks), folder, plan_identity)


def _with_gpus(names: Sequence[str], function: Callable[..., None], *arguments: Any) -> None:
    """Do a job's work with these GPUs; submitit gives none, as it can only tell of numbers."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    function(*arguments)


def run_agents(root: str, stage: Stage, agents: Sequence[str], attempt: str, plan_identity: str) -> None:
    """Finetune agents one after another, by processes that load their base once.

    One that fails does not keep the others from their turn; the first failure
    is raised in the end.

    Parameters
    ----------
    attempt
        Of the first agent; those of the others begin with their turns.
    """
    run, log = RunDir(Path(root)), str(submitit.JobEnvironment().paths.stderr)
    failure: Exception | None = None
    with Workers() as workers:
        for position, agent in enumerate(agents):
            if run.done(stage, agent):
                continue
            folder = attempt if position == 0 else str(begin(run.attempts(stage, agent), {"log": log}))
            try:
                run_task(root, stage.id, agent, folder, plan_identity, workers=workers)
            except Exception as error:
                failure = failure or error
    if failure is not None:
        raise failure


@contextmanager
def _errors_into(path: Path) -> Iterator[None]:
    """A file for what processes started inside the block write to their standard error.

    submitit's controller of a local job takes Ctrl-C for a crash and prints
    a traceback, into the terminal that it has inherited.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment of jobs started inside the block; submitit hands ours on."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
