"""``hpcmaf verify``: is what was published still what was written?"""

from __future__ import annotations

from pathlib import Path

import click

from hpcmaf.errors import StoreError
from hpcmaf.store.verify import verify


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def command(path: Path) -> None:
    """Check a store, a folder of shards, or a run, against manifests and checksums.

    Prints ``ok`` or one line per finding (file, fault, remedy).
    """
    findings = verify(path)
    for line in findings or [f"ok: {path}"]:
        click.echo(line)
    raise click.exceptions.Exit(StoreError.exit_code if findings else 0)
