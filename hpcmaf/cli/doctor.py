"""``hpcmaf doctor``: what this machine and its cluster lack."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from hpcmaf.cli.options import PROFILE_VARIABLE, site_option
from hpcmaf.config import DEFAULT_PROFILE
from hpcmaf.config.profile import load_profile
from hpcmaf.errors import PlatformError, one_line
from hpcmaf.launch.doctor import examine
from hpcmaf.run.directory import RunDir


@click.command()
@click.option("--profile", help="File, or name of a shipped profile; default: the run's, $HPCMAF_PROFILE, local.")
@click.option("--run", "run_name", metavar="RUN", help="Run directory, or where one would be; default: runs/.")
@site_option
@click.option("--probe", is_flag=True, help="Also have srun look at a node from within, or at two.")
@click.option("--wait", type=click.IntRange(min=1), default=300, show_default=True, help="Seconds to wait for a node.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON: a list of level, area, text, remedy.")
def command(
    profile: str | None, run_name: str | None, site: tuple[str, ...], probe: bool, wait: int, as_json: bool
) -> None:
    """Compare this machine, and the cluster it belongs to, with what a profile asks for.

    Every finding is ok, a warning or a problem, with a remedy. The exit code
    is 12 when there is a problem.
    """
    run = RunDir.locate(run_name) if run_name else RunDir(Path("runs"))
    own = str(run.profile) if run.profile.exists() else os.environ.get(PROFILE_VARIABLE) or DEFAULT_PROFILE
    findings = []
    for found in examine(load_profile(profile or own, site, os.environ), run, probe_seconds=wait if probe else None):
        findings.append(found)
        if not as_json:
            remedy = f"; remedy: {found.remedy}" if found.remedy else ""
            click.echo(f"{found.level:<8} {one_line(f'{found.area}: {found.text}{remedy}')}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    if any(finding.level == "problem" for finding in findings):
        raise click.exceptions.Exit(PlatformError.exit_code)
