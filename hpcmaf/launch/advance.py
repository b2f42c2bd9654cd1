"""What a run needs next: submit what is ready and not submitted yet, retry or stop on what failed.

Keeps nothing in memory, may be called by anybody at any time, and twice is as good as once. A run on this machine, the
gates of one on a cluster, ``retry``, studies and dry runs all call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hpcmaf.errors import SlurmError
from hpcmaf.files.publish import remove
from hpcmaf.launch.scheduler import Scheduler, States, Stop
from hpcmaf.launch.slurm.causes import decide, nodes_to_avoid
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage


def advance(scheduler: Scheduler, attempts: int, states: States | None = None) -> States:
    """Submit what is ready; tasks that failed get another attempt, or stop the run.

    The caller holds the run (``RunDir.drive``).

    Parameters
    ----------
    attempts
        The profile's ceiling of attempts at a task.
    states
        A look that was just taken; left out, one is.

    Raises
    ------
    SlurmError
        Slurm refused a request, or does not answer; all else is submitted and settled by then.
    """
    states = states or scheduler.states()
    if scheduler.stopped():
        return states
    refused: SlurmError | None = None
    for stage in states.ready():
        try:
            if (stop := _submit_missing(scheduler, states, stage, attempts)) is not None:
                scheduler.cancel(stop)
                return states
        except SlurmError as error:
            refused = refused or error
    try:
        scheduler.settle(states)
    except SlurmError as error:
        refused = refused or error
    if refused is not None:
        raise refused
    return states


def _submit_missing(scheduler: Scheduler, states: States, stage: Stage, attempts: int) -> Stop | None:
    """Submit a stage's tasks; returns why the run goes no further, if so."""
    log, missing = scheduler.log, [(stage.id, task) for task in states.missing(stage)]
    fresh = [task for id, task in missing if (id, task) not in log.latest]
    # Judged already, but there was no room for another attempt.
    judged = {key: found for key in missing if (found := log.judged(key))}
    lost = [key for key in missing if key not in judged and key in log.latest]
    causes = {key: replace(cause, progressed=True) for key, cause in judged.items()}
    causes |= scheduler.causes(lost) if lost else {}
    again: dict[tuple[int, tuple[str, ...]], list[str]] = {}
    for key, cause in causes.items():
        task, submission = key[1], log.latest[key][0]
        decision = decide(cause, log.verdicts.get(key, [])[: -1 if key in judged else None], attempts)
        if key not in judged:
            log.judge(key, replace(cause, submission=submission.name))
        if not decision.retry:
            reason = f"{stage.id} {task}: {decision.why}" + (f"; log: {cause.log}" if cause.log else "")
            return Stop(reason=reason, stage=stage.id, task=task, kind=cause.kind, log=cause.log)
        if key not in judged:
            scheduler.say(f"{stage.id} {task}: {decision.why}; submitting it again")
        avoided = tuple(nodes_to_avoid(log.verdicts, key))
        again.setdefault((submission.halvings + decision.halve, avoided), []).append(task)
    # Those that were tried before come first: they are known to be worth the wait.
    for (halvings, exclude), tasks in again.items():
        scheduler.submit(stage, tasks, halvings=halvings, exclude=exclude)
    if fresh:
        scheduler.submit(stage, fresh, exclude=nodes_to_avoid(log.verdicts))
    return None


def start_afresh(scheduler: Scheduler) -> None:
    """Prepare :func:`advance` for a user who has seen why tasks failed, and done something about it.

    What failed no longer counts against the ceiling of attempts. What is queued or running stays as it is. The caller
    holds the run.
    """
    states, log = scheduler.states(), scheduler.log
    if not states.in_flight:
        for line in recover(scheduler.run, scheduler.plan):
            scheduler.say(line)
        states = scheduler.states()
    touched = log.latest.keys() | log.verdicts.keys()
    missing = [(stage.id, task) for stage in states.unfinished() for task in states.missing(stage)]
    log.reset([key for key in missing if key in touched])
    scheduler.run.stopped.unlink(missing_ok=True)


def recover(run: RunDir, plan: Plan) -> Sequence[str]:
    """Bring a run's markers and files together again after a kill, or somebody's tidying.

    A task whose outputs are gone is not done, whatever its marker says, if somebody still has to read them. Deleting a
    damaged file is therefore enough to have it made again, while models of iterations long past may be deleted to save
    space.

    Returns
    -------
    sequence of str
        A line per task that has to be done again.
    """
    lines = []
    # Last stages first: what has to be done again needs its own inputs.
    for stage in reversed(plan.stages):
        readers = [later for later in plan.stages if stage.id in later.after]
        if readers and all(run.done(later, task) for later in readers for task in later.tasks):
            continue
        for task in stage.tasks:
            if run.done(stage, task) and (gone := run.missing(stage, task)):
                run.marker(stage, task).unlink()
                lines.append(f"{stage.id} {task}: {gone[0]} is gone; doing it again")
    sweep(run, plan)
    return lines


def sweep(run: RunDir, plan: Plan) -> None:
    """Delete what killed writers left behind, unless some task is still at work.

    A task whose driver was killed runs on. It writes under its claim, so what was there before nobody held a claim is
    nobody's.
    """
    leftovers = run.leftovers(plan)
    if any(run.claimed(stage, task) for stage in plan.stages for task in stage.tasks if not run.done(stage, task)):
        return
    for path in leftovers:
        remove(path, tries=1)
