"""``hpcmaf doctor``: what this machine and its cluster lack."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpcmaf.launch.doctor import Finding

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@click.command()
@click.option(
    "--profile", "profile_name", help="File, or name of a shipped profile; default: the run's, $HPCMAF_PROFILE, local."
)
@click.option("--run", "run_name", metavar="RUN", help="Run directory, or where one would be; default: runs/.")
@click.option("--set-profile", "site", multiple=True, metavar="KEY=VALUE", help="Override a profile key; repeatable.")
@click.option("--probe", is_flag=True, help="Also submit a job of a minute that looks at two nodes from within.")
@click.option(
    "--wait",
    "seconds",
    type=click.FloatRange(min=1),
    default=300.0,
    show_default=True,
    help="Seconds to wait for that job.",
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON: a list of area, level, text, remedy.")
def command(
    profile_name: str | None, run_name: str | None, site: tuple[str, ...], probe: bool, seconds: float, as_json: bool
) -> None:
    """Hold this machine, and the cluster it belongs to, against a profile.

    Every finding is ok, a warning or a problem, with a remedy. The exit code
    is 12 when there is a problem.
    """
    import os
    from pathlib import Path

    from hpcmaf.cli.options import PROFILE_VARIABLE
    from hpcmaf.config.profile import DEFAULT_PROFILE, load_profile
    from hpcmaf.errors import PlatformError
    from hpcmaf.launch.doctor import examine
    from hpcmaf.run.directory import RunDir

    run = RunDir.locate(run_name) if run_name else RunDir(Path("runs"))
    own = str(run.profile) if run.profile.exists() else os.environ.get(PROFILE_VARIABLE) or DEFAULT_PROFILE
    profile = load_profile(profile_name or own, site, os.environ)
    plain = not as_json and not sys.stdout.isatty()
    findings = []
    for finding in examine(profile, run, probe_seconds=seconds if probe else None):
        findings.append(finding)
        if plain:
            click.echo(_line(finding))
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    elif not plain:
        from rich.console import Console

        Console().print(table(findings), highlight=False)
    if any(finding.level == "problem" for finding in findings):
        raise click.exceptions.Exit(PlatformError.exit_code)


def _line(finding: Finding) -> str:
    from hpcmaf.errors import one_line

    remedy = f"; remedy: {finding.remedy}" if finding.remedy else ""
    return one_line(f"{finding.level:<8} {finding.area}: {finding.text}{remedy}")


def table(findings: Sequence[Finding]) -> object:
    """Findings for a terminal; remedies below what they mend."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from hpcmaf.errors import one_line

    result = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("", "looked at", "found"):
        result.add_column(name, no_wrap=name != "found", overflow="fold")
    for finding in findings:
        text = Text(one_line(finding.text))
        if finding.remedy:
            text.append(f"\n-> {one_line(finding.remedy)}", style="bold")
        result.add_row(Text(finding.level, style=_STYLES[finding.level]), finding.area, text)
    return result
