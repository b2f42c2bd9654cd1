"""``hpcmaf import``: debates made by the released code, as a store."""

from __future__ import annotations

from pathlib import Path

import click

from hpcmaf.store.importing import import_debates


@click.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--task",
    type=click.Choice(["arithmetic", "gsm8k", "math", "mmlu", "jsonl"]),
    required=True,
    help="What the questions are, for reading answers.",
)
def command(file: Path, store: Path, task: str) -> None:
    """Turn FILE, debates in the released code's JSON, into the store STORE."""
    manifest = import_debates(file, store, task)
    click.echo(f"{store}: {manifest.rows} debates")
