"""What a kill, or somebody's tidying, left of a run: put in order before going on."""

from __future__ import annotations

from hpcmaf.files.publish import remove
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan


def recover(run: RunDir, plan: Plan) -> list[str]:
    """Bring a run's markers and files together again.

    A task whose outputs are gone is not done, whatever its marker says, if
    somebody still has to read them. Deleting a damaged file is therefore
    enough to have it made again, while models of iterations long past may be
    deleted to save space.

    The caller holds the run (``RunDir.drive``).

    Returns
    -------
    list of str
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

    A task whose driver was killed runs on. It writes under its claim, so
    what was there before nobody held a claim is nobody's.
    """
    leftovers = run.leftovers(plan)
    if any(run.claimed(stage, task) for stage in plan.stages for task in stage.tasks if not run.done(stage, task)):
        return
    for path in leftovers:
        remove(path, tries=1)
