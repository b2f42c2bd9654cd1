"""`hpcmaf micro`: remake the packaged base model, and measure one."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

import click

from hpcmaf.cli.ranges import FiniteRange
from hpcmaf.errors import DataError, UsageError

_DEVICE = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to compute."
)


@click.group("micro")
def command() -> None:
    """Remake or score the packaged micro base model."""


@command.command("train")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="The model's folder.")
@click.option("--seed", default=0, show_default=True, help="Of the corpus and the initial weights.")
@click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps [default: the packaged model's].")
@click.option("--learning-rate", type=FiniteRange(min=0, min_open=True), help="Peak [default: the packaged model's].")
@click.option(
    "--processes", type=click.IntRange(min=0), default=2, show_default=True, help="That write the corpus, beside this."
)
@click.option("--compile/--no-compile", "compiled", default=False, help="Compile the network first (a minute).")
@_DEVICE
def train(
    out: Path,
    seed: int,
    steps: int | None,
    learning_rate: float | None,
    processes: int,
    compiled: bool,
    device: str,
) -> None:
    """Make the model from nothing: minutes on a data-centre GPU, hours on a laptop.

    Settings left out are those of the packaged model. The corpus is the same
    for a seed everywhere; weights differ in their last digits between devices.
    """
    from hpcmaf.micro import train as making

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: exists and is not an empty folder; name a new one")
    # Found out now, not after hours of training.
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        pass
    given = {"seed": seed, "steps": steps, "learning_rate": learning_rate}
    settings = making.Making(**{name: value for name, value in given.items() if value is not None})
    model = making.train(
        settings,
        device=making.device_named(device),
        processes=processes,
        compiled=compiled,
        report=lambda row: click.echo(json.dumps(row), err=True),
    )
    with redirect_stdout(sys.stderr):  # libraries loaded for saving greet on standard output
        making.save_model(model, out, settings)
    click.echo(json.dumps({"model": str(out), **asdict(settings)}))


@command.command("score")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--problems", type=click.IntRange(min=1), default=1000, show_default=True, help="Problems debated.")
@click.option("--agents", type=click.IntRange(min=1), default=3, show_default=True, help="Copies of the model.")
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True, help="Rounds of the debate.")
@click.option("--top-p", type=FiniteRange(0, 1, min_open=True), default=0.9, show_default=True)
@click.option("--temperature", type=FiniteRange(min=0, min_open=True), default=1.0, show_default=True)
@click.option("--summaries/--no-summaries", default=True, show_default=True, help="Or critics read the answers.")
@click.option("--seed", default=0, show_default=True, help="Of problems and draws.")
@_DEVICE
def score(
    folder: Path | None,
    problems: int,
    agents: int,
    rounds: int,
    top_p: float,
    temperature: float,
    summaries: bool,
    seed: int,
    device: str,
) -> None:
    """Measure FOLDER (default: the packaged model): one answer, majority, debate, as JSON."""
    from hpcmaf.micro import base_path
    from hpcmaf.micro.evaluate import score as measure
    from hpcmaf.micro.train import device_named

    folder = base_path() if folder is None else folder
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder}: no model here (config.json is missing); make one with hpcmaf micro train --out DIR")
    found = measure(
        folder,
        problems=problems,
        agents=agents,
        rounds=rounds,
        top_p=top_p,
        temperature=temperature,
        seed=seed,
        device=device_named(device),
        summaries=summaries,
    )
    row = {name: value if isinstance(value, float) else asdict(value) for name, value in found.items()}
    click.echo(json.dumps({"model": str(folder), "problems": problems, **row}))
