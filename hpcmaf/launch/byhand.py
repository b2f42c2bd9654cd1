"""Tasks of one stage in this process: for your own batch script, or a debugger.

Goes the same way as every job: an attempt's folder, the claim, the marker
last. A chain of jobs that works on the same run finds these tasks done.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hpcmaf.config.profile import load_profile
from hpcmaf.errors import HpcmafError, RunBusyError, StageError, StopRequested, UsageError, system_error
from hpcmaf.jobs.context import limit_threads
from hpcmaf.jobs.task import run_tasks
from hpcmaf.launch.slurm.nodes import place_of_job, restarts
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage
from hpcmaf.training.multinode import NodeRank
from hpcmaf.training.stop import SIGNALS, StopFlag


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
    run = RunDir(run.root.resolve())
    os.environ.update(limit_threads(load_profile(str(run.profile)).threads(stage.spec.resources)))
    stop = StopFlag()

    def busy(task: str) -> bool:
        message = f"{stage.id} {task}: another process is working on it"
        if tasks:
            raise RunBusyError(f"{message}; wait for it or stop it")
        print(f"{message}; left to it", flush=True)
        return False

    array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID")
    facts = {"restarts": restarts(), "log": _log()}
    facts |= {"job": f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job} if job else {}
    chosen, several = tasks or stage.tasks, int(os.environ.get("SLURM_STEP_NUM_NODES", "1")) > 1
    place = _place if several and stage.spec.resources == "finetuning" else lambda position: None
    with _heeding(stop):
        failure = run_tasks(run, stage, chosen, plan.identity, facts=facts, stop=stop, place=place, busy=busy)
    if isinstance(failure, RunBusyError) and tasks:
        raise failure
    if failure is None and stop.requested:
        left = next((task for task in chosen if not run.done(stage, task)), None)
        if left is not None:
            raise StopRequested(f"{stage.id}: stopped on request before {left} began; the same command resumes")
    if isinstance(failure, OSError | MemoryError):
        return system_error(failure)
    if failure is not None and not isinstance(failure, HpcmafError):
        raise failure
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


def _place(position: int) -> NodeRank | None:
    """This node's place in a finetuning job of several, which srun starts on each."""
    # submitit believes to be in one of its own jobs only when it is told so.
    os.environ["SUBMITIT_EXECUTOR"] = "slurm"
    return place_of_job(position)


def _log() -> str:
    """The file that this process's messages go to, if it is one."""
    try:
        path = Path(os.readlink("/proc/self/fd/2"))
    except OSError:
        return ""
    return str(path) if path.is_file() else ""
