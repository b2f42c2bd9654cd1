"""``hpcmaf diversity``: how differently the agents of a run answer."""

from __future__ import annotations

import json
from typing import Any

import click

from hpcmaf.cli.options import device_option, quiet_libraries
from hpcmaf.jobs.diversity import measure_run
from hpcmaf.run.directory import RunDir


@click.command("diversity")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=RunDir.locate)
@click.option("--iter", "iterations", type=click.IntRange(min=0), multiple=True, help="Iteration; repeatable. All.")
@click.option("--problems", type=click.IntRange(min=1), default=100, show_default=True, help="Size of the sample.")
@click.option("--encoder", help="Sentence encoder: folder or hub id. Default: the base model's own states.")
@device_option
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Responses at once.")
def command(runs: tuple[RunDir, ...], iterations: tuple[int, ...], problems: int, **model: Any) -> None:
    """Measure the diversity of runs' final responses with models.

    Embedding dissimilarity, the likelihood of each agent's responses under
    the others, and the divergence between agents and from the base, on the
    same sample of evaluation problems in every iteration. Writes
    itTT/diversity.json, which 'hpcmaf aggregate' shows; what has one is not
    measured again. Gold answers are not read.
    """
    quiet_libraries()
    for run in runs:
        for path, value in measure_run(run, iterations, problems, **model):
            click.echo(json.dumps(value["measures"] | {"run": str(run.root), "iteration": value["iteration"]}))
            click.echo(f"diversity: {path}", err=True)
            if pairs := value.get("other_vocabulary"):
                line = "likelihoods and KL leave out pairs of agents of different vocabularies"
                click.echo(f"diversity: {line}: {pairs}", err=True)
