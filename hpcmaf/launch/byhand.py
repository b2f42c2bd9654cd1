"""Tasks of one stage in this process: for a batch script of one's own, or a debugger.

Goes the same way as every job: an attempt's folder, the claim, the marker
last. A chain of jobs that works on the same run finds these tasks done.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpcmaf.config.profile import load_profile
from hpcmaf.errors import HpcmafError, RunBusyError, StageError, StopRequested, UsageError, one_line, system_error
from hpcmaf.jobs.context import limit_threads
from hpcmaf.jobs.resume import standing
from hpcmaf.jobs.task import run_task
from hpcmaf.run.attempts import begin
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage
from hpcmaf.training.nodes import NodePlace
from hpcmaf.training.stopping import SIGNALS, StopFlag


def find_stage(plan: Plan, name: str) -> Stage:
    """A stage by id; ``1/debate`` will do for ``it01/debate``.

    Raises
    ------
    UsageError
        The plan has none of that name.
    """
    number, slash, kind = name.removeprefix("it").partition("/")
    for stage in plan.stages:
        if slash and number.isdigit() and int(number) == stage.iteration and kind == stage.kind:
            return stage
    known = [stage.id for stage in plan.stages]
    raise UsageError(f"{name}: the plan has no such stage; it has {known[0]} to {known[-1]}, such as {known[-2]}")


def find_tasks(stage: Stage, names: Sequence[str]) -> list[str]:
    """Tasks by name (``generator-0``, ``00003``) or by number, from 0.

    Raises
    ------
    UsageError
        The stage has none of that name or number.
    """
    found = []
    for name in names:
        if name in stage.tasks:
            found.append(name)
        elif name.isdecimal() and int(name) < len(stage.tasks):
            found.append(stage.tasks[int(name)])
        else:
            last = len(stage.tasks) - 1
            which = f"0 to {last}, or {stage.tasks[0]} to {stage.tasks[-1]}" if last else f"0, or {stage.tasks[0]}"
            raise UsageError(f"{stage.id}: has no task {name}; its tasks are {which}")
    return list(dict.fromkeys(found))


def run_stage(run: RunDir, plan: Plan, stage: Stage, tasks: Sequence[str]) -> HpcmafError | None:
    """Run tasks one after another, every one even if another fails.

    Parameters
    ----------
    tasks
        Empty for all that are not done; those that others are at work on are
        then left to them.

    Returns
    -------
    HpcmafError, optional
        Why the first task that failed did. Its line has been printed.

    Raises
    ------
    RunBusyError
        Another process is at work on one of the tasks named.
    StopRequested
        A signal came between two tasks.
    """
    if not run.profile.exists():
        raise StageError(f"{run.root}: profile.yaml is missing; make it again with hpcmaf plan --write")
    profile = load_profile(str(run.profile))
    threads = profile.finetuning.threads if stage.kind == "finetune" else profile.generation.threads
    os.environ.update(limit_threads(threads))
    stop = StopFlag()
    failure: HpcmafError | None = None
    with _heeding(stop):
        for position, task in enumerate(tasks or stage.tasks):
            if stop.requested:
                if failure is None:
                    raise StopRequested(f"{stage.id}: told to stop before {task} began; the same command goes on")
                break
            if run.done(stage, task):
                print(f"{stage.id} {task}: done already", flush=True)
                continue
            place = _place(stage, position)
            if (place is None or place.rank == 0) and run.claimed(stage, task):
                message = f"{stage.id} {task}: another process is working on it"
                if tasks:
                    raise RunBusyError(f"{message}; wait for it or stop it")
                print(f"{message}; left to it", flush=True)
                continue
            try:
                _run(run, plan, stage, task, stop, place)
            except HpcmafError as error:
                failure = failure or error
            except (OSError, MemoryError) as error:
                failure = failure or system_error(error)
    return failure


@contextmanager
def _heeding(stop: StopFlag) -> Iterator[None]:
    """Within the block, the scheduler's signals ask for an orderly stop."""
    before = {number: signal.signal(number, stop.request) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(run: RunDir, plan: Plan, stage: Stage, task: str, stop: StopFlag, place: NodePlace | None) -> None:
    if place is not None and place.rank > 0:
        from hpcmaf.launch.slurm.nodes import lend

        try:
            lend(run, stage, task, place, stop)
        except HpcmafError as error:
            print(f"error: node {place.rank}: {one_line(str(error))}", file=sys.stderr, flush=True)
            raise
        return
    attempt = begin(run.attempts(stage, task), _facts(standing(run, stage, task)))
    print(f"{stage.id} {task}: begins", flush=True)
    root = str(run.root.resolve())
    run_task(root, stage.id, task, str(attempt.resolve()), plan.identity, stop=stop, place=place)
    print(f"{stage.id} {task}: done", flush=True)


def _place(stage: Stage, position: int) -> NodePlace | None:
    """This node's place in a finetuning job of several, which srun starts on each."""
    if stage.kind != "finetune" or int(os.environ.get("SLURM_STEP_NUM_NODES", "1")) == 1:
        return None
    from hpcmaf.launch.slurm.nodes import place_of_job

    # submitit believes to be in one of its own jobs only when it is told so.
    os.environ["SUBMITIT_EXECUTOR"] = "slurm"
    return place_of_job(position)


def _facts(progress: int) -> dict[str, Any]:
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{job}_{os.environ['SLURM_ARRAY_TASK_ID']}" if job else os.environ.get("SLURM_JOB_ID")
    facts: dict[str, Any] = {
        "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        "started": time.time(),
        "progress": progress,
        "log": _log(),
    }
    return facts if job is None else facts | {"job": job}


def _log() -> str:
    """The file that this process's messages go to, if it is one."""
    try:
        path = Path(os.readlink("/proc/self/fd/2"))
    except OSError:
        return ""
    return str(path) if path.is_file() else ""
