"""``hpcmaf plan``: what a run would do, before anything does it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from hpcmaf.cli.options import RunOptions, run_options
from hpcmaf.config.profile import Profile
from hpcmaf.config.recipe import Recipe
from hpcmaf.jobs.serving import models_of
from hpcmaf.launch.doctor import profile_findings
from hpcmaf.launch.prepare import plan_run, prepare_run
from hpcmaf.launch.slurm.causes import MOST_ATTEMPTS
from hpcmaf.launch.slurm.preview import Recording, preview
from hpcmaf.launch.slurm.submissions import Submission
from hpcmaf.report.table import Table
from hpcmaf.run.plan import Plan, Stage


@click.command()
@run_options
@click.option("--write", is_flag=True, help="Make the run directory too, as submit does first.")
def command(options: RunOptions, write: bool) -> None:
    """Show a run's stages, jobs and batch scripts, and the most it can cost.

    Submits nothing and, without --write, writes nothing. Slurm need not be
    installed here. A run in progress is shown with what is left of it.
    """
    if write:
        with options.run.drive():
            prepare_run(options.run, options.recipe, options.profile)
        click.echo(f"run directory: {options.run.root}", err=True)
    show_plan(options)


def show_plan(options: RunOptions) -> None:
    """Print what submitting would do: a batch script of each kind, and where the eye falls a table and sums."""
    run, profile = options.run, options.profile
    plan, _ = plan_run(run, options.recipe, profile)
    sent = preview(run, plan, profile) if profile.launcher == "slurm" else None
    for job in _one_of_each(sent) if sent else ():
        click.secho(f"### {'gate behind ' if job.gate else ''}{job.stage}", dim=True)
        click.echo(f"{sent.script(job).rstrip()}\n")
    click.secho(f"{options.headline(plan)}; profile {profile.name} ({profile.launcher})", bold=True)
    for line in _bases(options.recipe):
        click.echo(line)
    done, rows = run.done_tasks(plan), []
    left = {one.id: len(one.tasks) - len(done[one.id]) for one in plan.stages}
    for one in plan.stages:
        row = [one.id, ", ".join(one.after) or "-", f"{left[one.id]} of {len(one.tasks)}" if left[one.id] else "done"]
        if sent is not None:
            jobs = _jobs(sent, one) or ("those of debates" if left[one.id] else "-")
            row += [jobs, f"{hours:,.1f}" if (hours := sent.gpu_hours(one)) else "-"]
        rows.append(tuple(row))
    header = ("stage", "after", "tasks", *(("jobs", "GPU-hours") if sent else ()))
    click.echo(f"{Table('', header, tuple(rows)).plain()}\n")
    tasks = sum(len(one.tasks) for one in plan.stages)
    total = f"total: {len(plan.stages)} stages, {sum(left.values())} of {tasks} tasks left"
    if sent is None:
        click.secho(f"{total}, {profile.slots()} at once on this machine", bold=True)
    else:
        gates = sum(job.gate for job in sent.submitted)
        total += f", in {len(sent.submitted)} submissions, {gates} of them gates"
        click.secho(f"{total}\n{_ceiling(plan, profile, sent)}", bold=True)
        # What one must know to believe the scripts.
        click.secho(f"MaxArraySize: {sent.array_limit()}", dim=True)
        click.secho("in scripts, JOB_0007 stands for the id of the job whose name ends in .0007", dim=True)
    for found in profile_findings(profile):
        click.secho(f"warning: {found.text}; {found.remedy}", bold=True)


def _one_of_each(sent: Recording) -> Iterable[Submission]:
    """The first job of each kind."""
    first: dict[str, Submission] = {}
    for job in sent.submitted:
        first.setdefault("gate" if job.gate else sent.plan.stage(job.stage).kind, job)
    return first.values()


def _bases(recipe: Recipe) -> Iterator[str]:
    """Of a society with several bases, each and who it is of."""
    found = models_of(recipe, dict.fromkeys(recipe.trained, ""))
    for one in found if len(found) > 1 else ():
        parts = [f"{len(one.agents)} trained ({one.tuning}): {', '.join(one.agents)}"] if one.agents else []
        parts += [f"untrained: {', '.join(one.copies)}"] if one.copies else []
        yield f"base {one.base}: {'; '.join(parts) or 'untrained'}"


def _jobs(sent: Recording, stage: Stage) -> str:
    """A stage's jobs, such as ``3 arrays of 334+333+333, 20 at once``."""
    sizes = [len(job.elements) for job in sent.submitted if job.stage == stage.id and not job.gate]
    if not sizes:
        return ""
    what = "job" if max(sizes) == 1 else "array"
    parts = "" if max(sizes) == 1 else f" of {'+'.join(map(str, sizes))}"
    at_once = sent.cluster.resources(stage.spec.resources).at_once
    limit = f", {at_once} at once" if at_once and at_once < sum(sizes) else ""
    return f"{len(sizes)} {what}{'s' * (len(sizes) > 1)}{parts}{limit}"


def _ceiling(plan: Plan, profile: Profile, sent: Recording) -> str:
    once = sum(map(sent.gpu_hours, plan.stages))
    if not once:
        return "ceiling: no job that is left asks for a GPU"
    return (
        f"ceiling: {once:,.1f} GPU-hours if each job takes all of its time once, {once * profile.attempts:,.1f} with "
        f"all {profile.attempts} attempts (preemption, lost nodes, time limits reached with progress: repeated "
        f"uncounted, {MOST_ATTEMPTS} attempts in all)"
    )
