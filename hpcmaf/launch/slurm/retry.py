"""Giving failed tasks a fresh start, on request; what is attempted again by itself is decided in ``causes.py``."""

from __future__ import annotations

from collections.abc import Collection

from hpcmaf.config.profile import Profile
from hpcmaf.config.recipe import Recipe
from hpcmaf.errors import ConfigError, SlurmError, one_line
from hpcmaf.launch.prepare import write_profile
from hpcmaf.launch.slurm.gate import submit
from hpcmaf.launch.slurm.scheduler import Slurm
from hpcmaf.launch.survey import survey
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, TaskKey, build_plan, check_continues


def retry(run: RunDir, plan: Plan, profile: Profile, chosen: Collection[TaskKey], *, whole: bool) -> Slurm | None:
    """Submit failed tasks again, as if they had never failed, and move the chain on.

    The caller holds the run.

    Parameters
    ----------
    profile
        Is kept in the run: its gates read it there.
    chosen
        Among which tasks to look for failed ones.
    whole
        Whether that is all of them: a run that was cancelled or has stalled
        then goes on, even if no task failed.

    Returns
    -------
    Slurm or None
        ``None`` when there is nothing to retry.

    Raises
    ------
    SlurmError
        Slurm does not answer.
    ConfigError
        A failed task that is not among those chosen would stop the chain again.
    PlanChangedError
        The profile cuts the run into other shards than it was planned with.
    """
    found = survey(run, plan, profile)
    if found.state == "unknown":
        raise SlurmError(found.notes[0])
    failed = {key for key in found.failures if key in chosen}
    if not failed and not (whole and found.state in {"stopped", "stalled"}):
        return None
    for key, failure in found.failures.items():
        if key not in failed and not failure.again:
            raise ConfigError(
                f"{failure.stage} {failure.task} failed as well and would stop the chain again "
                f"({one_line(failure.text)}); retry it too, with a wider choice"
            )
    check_continues(
        plan, build_plan(Recipe.model_validate(plan.recipe), profile, plan.problems, plan.base), str(run.root)
    )
    write_profile(run, profile)
    # Others were cancelled with the chain, or failed through no fault of
    # theirs: without a fresh start they could stop it again.
    others = {(stage.id, task) for stage in plan.stages for task in stage.tasks if task not in found.done[stage.id]}
    return submit(run, plan, profile, only=failed | others)
