"""Tasks of one stage in this process: for your own batch script, or a debugger.

Goes the same way as every job: an attempt's folder, the claim, the marker last. A chain of jobs that works on the same
run finds these tasks done.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from hpcmaf.config.profile import load_profile
from hpcmaf.errors import HpcmafError, StopRequested, UsageError, system_error
from hpcmaf.jobs.context import limit_threads
from hpcmaf.jobs.task import run_tasks
from hpcmaf.launch.slurm.nodes import place_of_job
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage
from hpcmaf.training.stop import StopFlag, handle_signals


def find_stage(plan: Plan, name: str) -> Stage:
    """A stage by id; ``1/debate`` will do for ``it01/debate``.

    Raises
    ------
    UsageError
        The plan has none of that name.
    """
    number, _, kind = name.removeprefix("it").partition("/")
    for stage in plan.stages:
        if number.isdigit() and (int(number), kind) == (stage.iteration, stage.kind):
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
            known = " to ".join(dict.fromkeys((stage.tasks[0], stage.tasks[-1])))
            raise UsageError(f"{stage.id}: has no task {name}; its tasks are {known}, or numbers from 0")
    return list(dict.fromkeys(found))


def run_stage(run: RunDir, plan: Plan, stage: Stage, tasks: Sequence[str]) -> HpcmafError | None:
    """Run tasks one after another, every one even if another fails.

    Parameters
    ----------
    tasks
        Empty for all that are not done; those that others are at work on are then left to them.

    Returns
    -------
    HpcmafError, optional
        Why the first task that failed did. Its line has been printed.

    Raises
    ------
    StopRequested
        A signal came between two tasks.
    """
    run, stop = RunDir(run.root.resolve()), StopFlag()
    os.environ.update(limit_threads(load_profile(str(run.profile)).threads(stage.spec.resources)))

    def busy(task: str) -> bool:
        if not tasks:
            print(f"{stage.id} {task}: another process is working on it; left to it", flush=True)
        return bool(tasks)

    handle_signals(stop.request)
    chosen = tasks or stage.tasks
    failure = run_tasks(run, stage, chosen, plan.identity, facts={}, stop=stop, place=place_of_job, busy=busy)
    if failure is None and stop.requested and not all(run.done(stage, task) for task in chosen):
        raise StopRequested(f"{stage.id}: stopped on request; the same command resumes")
    if isinstance(failure, OSError | MemoryError):
        return system_error(failure)
    if failure is not None and not isinstance(failure, HpcmafError):
        raise failure
    return failure
