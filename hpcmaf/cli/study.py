"""``hpcmaf study``: many runs as one plan."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click

from hpcmaf.cli.options import RunOptions, iterations_option, profile_option, set_option, site_option
from hpcmaf.cli.submit import submit_run
from hpcmaf.config.profile import Profile, load_profile
from hpcmaf.errors import UsageError
from hpcmaf.files.locking import lock
from hpcmaf.report.report import aggregate
from hpcmaf.study.plan import Study, StudyRun, load_study
from hpcmaf.study.drive import drive_here, drive_study, plan_study, savings, under_way


@click.command()
@click.argument("file", metavar="FILE")
@profile_option
@iterations_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the runs; default: runs/NAME.")
@set_option
@site_option
@click.option("--dry-run", is_flag=True, help="Show the runs and what they share; do nothing.")
def command(
    file: str,
    profile: str,
    iters: int | None,
    out: Path | None,
    overrides: tuple[str, ...],
    site: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Run every method, task, model and seed of FILE, and aggregate over all runs.

    FILE is a study file or the name of a shipped one. What is the same in
    several runs is computed once and taken over by the others. On one machine
    runs go on beside each other, within the profile's jobs. The same command
    goes on with an interrupted study. With a profile of launcher:
    slurm it submits every run as soon as what it shares is there, and stays
    until all have ended; stopped meanwhile, it leaves the jobs alone.
    """
    study = load_study(file, overrides=overrides, iterations=iters, root=out)
    where = load_profile(profile, site, os.environ)
    if dry_run:
        _show(study, where)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with lock(study.root / ".study.lock", f"{study.root}: another 'hpcmaf study' is at it; wait for it, or stop it"):
        _drive(study, where)


def _drive(study: Study, profile: Profile) -> None:
    say = partial(click.echo, err=True)

    def start(one: StudyRun) -> Iterator[None]:
        submit_run(RunOptions(one.run, one.recipe, profile))
        return under_way(one)

    try:
        if profile.launcher == "slurm":
            drive_study(study, profile, say, start)
        else:
            drive_here(study, profile, say, sys.stderr)
    finally:
        _aggregate(study)


def _aggregate(study: Study) -> None:
    """Whatever there is, also when runs failed."""
    roots = [entry.run.root for entry in study.runs if entry.run.plan.exists()]
    if not any(entry.run.metrics(0).exists() for entry in study.runs):
        return
    try:
        report = aggregate(roots, study.report, baseline=study.baseline, reference=study.reference)
    except UsageError as error:  # of an unfinished study the baseline may be what is missing
        click.echo(f"no tests against the study's baseline: {error}", err=True)
        report = aggregate(roots, study.report, reference=study.reference)
    report.print()
    click.echo(f"report: {study.report / 'report.html'}", err=True)


def _show(study: Study, profile: Profile) -> None:
    planned = plan_study(study, profile)
    tasks = shared = 0
    for entry, (own, taken, owners) in zip(planned, savings(planned), strict=True):
        tasks, shared = tasks + own, shared + taken
        source = f", {taken} of them shared with {', '.join(owners)}" if taken else ""
        click.echo(f"{entry.run.root}: {entry.recipe.method}, L={entry.recipe.iterations}, {own} tasks{source}")
    click.echo(f"{study.name}: {len(planned)} runs, {tasks} tasks, {tasks - shared} to compute, {shared} taken over")
