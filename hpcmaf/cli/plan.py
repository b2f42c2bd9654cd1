"""``hpcmaf plan``: what a run would do, before anything does it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from hpcmaf.cli.options import RunOptions, read_options, run_options
from hpcmaf.errors import UsageError

if TYPE_CHECKING:
    from hpcmaf.config.profile import Profile
    from hpcmaf.config.recipe import Recipe
    from hpcmaf.launch.slurm.preview import Recording
    from hpcmaf.launch.slurm.submissions import Submission
    from hpcmaf.run.plan import Plan

# Whoever reads a pipe breaks lines for themselves.
_PIPE_WIDTH = 240


@click.command()
@run_options
@click.option("--stage", metavar="STAGE", help="All scripts of this stage, such as it01/debate; else one of each kind.")
@click.option("--write", is_flag=True, help="Make the run directory too, as submit does first.")
def command(stage: str | None, write: bool, **which: object) -> None:
    """Show a run's stages, jobs and batch scripts, and the most it can cost.

    Submits nothing and, without --write, writes nothing. Slurm need not be
    installed here. A run in progress is shown with what is left of it.
    """
    options = read_options(**which)  # type: ignore[arg-type]
    if write:
        from hpcmaf.launch.prepare import prepare_run

        with options.run.drive():
            prepare_run(options.run, options.recipe, options.profile)
        click.echo(f"run directory: {options.run.root}", err=True)
    show_plan(options, stage)


def show_plan(options: RunOptions, stage: str | None = None) -> None:
    """Print what submitting would do: batch scripts, and below them, where the eye falls, a table and sums.

    Parameters
    ----------
    stage
        Show this stage's batch scripts instead of one of each kind.
    """
    from rich.console import Console
    from rich.table import Table

    from hpcmaf.launch.byhand import find_stage
    from hpcmaf.launch.doctor import profile_findings
    from hpcmaf.launch.prepare import plan_run
    from hpcmaf.launch.slurm.preview import preview

    run, profile = options.run, options.profile
    if stage is not None and profile.launcher == "local":
        raise UsageError(
            f"--stage: profile {profile.name} runs on this machine and has no batch scripts; leave it out, "
            "or name a profile of launcher: slurm with --profile"
        )
    plan, _ = plan_run(run, options.recipe, profile)
    stage = stage and find_stage(plan, stage).id
    sent = preview(run, plan, profile) if profile.launcher == "slurm" else None
    # Whole lines, so that what is shown is what would be sent.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    console = Console(width=width, highlight=False, soft_wrap=True, markup=False)
    for job in _shown(sent, stage) if sent else ():
        console.print(f"### {'gate behind ' if job.gate else ''}{job.stage}", style="dim")
        console.print(f"{sent.script(job).rstrip()}\n")
    console.print(_headline(options, plan), style="bold")
    for line in _bases(options.recipe):
        console.print(line)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("stage", "after", "tasks", *(("jobs", "GPU-hours") if sent else ())):
        table.add_column(name, justify="right" if name in {"tasks", "GPU-hours"} else "left", overflow="fold")
    done = run.done_tasks(plan)
    for one in plan.stages:
        left, tasks = len(one.tasks) - len(done[one.id]), len(one.tasks)
        row = [one.id, ", ".join(one.after) or "-", "done" if not left else f"{left} of {tasks}"]
        if sent is not None:
            at_once = profile.cluster.resources(one.spec.resources).at_once
            sizes = [len(job.elements) for job in sent.submitted if job.stage == one.id and not job.gate]
            row += [_jobs(sizes, at_once), f"{hours:,.1f}" if (hours := sent.gpu_hours(one)) else "-"]
        table.add_row(*row, style="" if left else "dim", end_section=True)
    console.print(table, soft_wrap=False)
    console.print()
    left = sum(len(one.tasks) - len(done[one.id]) for one in plan.stages)
    total = f"total: {len(plan.stages)} stages, {left} of {sum(len(one.tasks) for one in plan.stages)} tasks left"
    if sent is None:
        console.print(f"{total}, {profile.slots()} at once on this machine", style="bold")
    else:
        gates = sum(job.gate for job in sent.submitted)
        console.print(f"{total}, in {len(sent.submitted)} submissions, {gates} of them gates", style="bold")
        console.print(_ceiling(plan, profile, sent), style="bold")
        for line in _remarks(sent):
            console.print(line, style="dim")
    for found in profile_findings(profile):
        console.print(f"warning: {found.text}; {found.remedy}", style="bold")


def _shown(sent: Recording, stage: str | None) -> list[Submission]:
    """The jobs whose batch scripts are shown: a stage's and its gates', or the first of each kind."""
    if stage is not None:
        return [job for job in sent.submitted if job.stage == stage]
    first: dict[str, Submission] = {}
    for job in sent.submitted:
        first.setdefault("gate" if job.gate else sent.plan.stage(job.stage).kind, job)
    return list(first.values())


def _headline(options: RunOptions, plan: Plan) -> str:
    recipe, profile = options.recipe, options.profile
    return (
        f"{options.run.root}: {recipe.method} on {recipe.task.name}, N={recipe.debate.agents}, "
        f"M={recipe.debate.rounds}, {'at most ' * recipe.early_stop}{plan.iterations} iterations; "
        f"profile {profile.name} ({profile.launcher})"
    )


def _bases(recipe: Recipe) -> Iterator[str]:
    """Of a society with several bases, each and who it is of."""
    from hpcmaf.jobs.serving import models_of, trained_agents

    found = models_of(recipe, dict.fromkeys(trained_agents(recipe), ""))
    for one in found if len(found) > 1 else ():
        parts = [f"{len(one.agents)} trained ({one.tuning}): {', '.join(one.agents)}"] if one.agents else []
        parts += [f"untrained: {', '.join(one.copies)}"] if one.copies else []
        yield f"base {one.base}: {'; '.join(parts) or 'untrained'}"


def _jobs(sizes: Sequence[int], at_once: int | None) -> str:
    """A stage's jobs, such as ``3 arrays of 334+333+333, 20 at once``."""
    if not sizes:
        return "-"
    s = "s" * (len(sizes) > 1)
    if max(sizes) == 1:
        what = f"{len(sizes)} job{s}"
    else:
        share = "+".join(map(str, sizes)) if len(sizes) < 5 else f"{min(sizes)} to {max(sizes)}"
        what = f"{len(sizes)} array{s} of {share}"
    return what + (f", {at_once} at once" if at_once and at_once < sum(sizes) else "")


def _ceiling(plan: Plan, profile: Profile, sent: Recording) -> str:
    from hpcmaf.launch.slurm.causes import MOST_ATTEMPTS

    once = sum(map(sent.gpu_hours, plan.stages))
    if not once:
        return "ceiling: no job that is left asks for a GPU"
    return (
        f"ceiling: {once:,.1f} GPU-hours if each job takes all of its time once, {once * profile.attempts:,.1f} with "
        f"all {profile.attempts} attempts (preemption, lost nodes, time limits reached with progress: repeated "
        f"uncounted, {MOST_ATTEMPTS} attempts in all)"
    )


def _remarks(sent: Recording) -> Iterator[str]:
    """What one must know to believe the scripts."""
    from hpcmaf.launch.slurm.preview import UNKNOWN_TAG

    yield f"MaxArraySize: {sent.array_limit()}"
    if sent.submitted:
        drawn = f"{UNKNOWN_TAG} in names is drawn at the first submission, " if UNKNOWN_TAG in sent.tag else ""
        yield f"in scripts, {drawn}JOB_0007 stands for the id of the job whose name ends in .0007"
    if sent.begun:
        yield "this run was submitted before: jobs still queued or running count as left here"
