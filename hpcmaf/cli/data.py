"""``hpcmaf data``: bring a task's problems into the project's layout."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hpcmaf.tasks import GENERATED, TASKS, get_task


@click.group(name="data")
def command() -> None:
    """Prepare a task's problems."""


@command.command()
@click.argument("task", type=click.Choice([name for name in TASKS if name not in GENERATED]))
@click.option("--source", required=True, metavar="PATH|HUB_ID", help="A file, a folder, or a data set's id on the hub.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder to write; data/TASK by default.")
def prepare(task: str, source: str, out: Path | None) -> None:
    """Write TASK's problems as train.jsonl and test.jsonl, each with a manifest.

    A source that is one pool becomes all.jsonl; runs cut it in two. A recipe
    names the folder as task.source.
    """
    folder = out or Path("data") / task
    report = get_task(task).prepare(source, folder)
    click.echo(json.dumps(report, indent=1, sort_keys=True))
    click.echo(f"prepared {folder}; name it in a recipe as task.source", err=True)
