"""``hpcmaf verify``: is what was published still what was written?"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hpcmaf.errors import StoreError
from hpcmaf.store import verify


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def command(path: Path) -> None:
    """Check a store, a folder of shards, or a run, against manifests and checksums.

    Prints ``ok`` or one line per finding (file, fault, remedy).
    """
    findings = verify(path)
    for finding in findings:
        click.echo(finding)
    if findings:
        sys.exit(StoreError.exit_code)
    click.echo(f"ok: {path}")
