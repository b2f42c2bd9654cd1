"""``hpcmaf export``: an agent's adapter, model or training sets, or the society as one model, to take elsewhere."""

from __future__ import annotations

from pathlib import Path

import click

from hpcmaf.cli.options import quiet_libraries, run_argument
from hpcmaf.errors import UsageError
from hpcmaf.jobs.export import export
from hpcmaf.run.directory import RunDir


@click.command("export")
@run_argument
@click.option("--agent", help="Such as critic-1; 'single' of methods that train one model.")
@click.option(
    "--as",
    "what",
    type=click.Choice(["adapter", "model", "data", "society-in-one"]),
    default="adapter",
    show_default=True,
    help="The PEFT adapter, a whole model with the adapter merged in, or the training sets, of an agent; or one whole "
    "model that is finetuned here to say alone what the society's debates came to.",
)
@click.option("--iter", "iteration", type=click.IntRange(min=1), help="Iteration [default: the last; of data, all].")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
def command(run: RunDir, agent: str | None, what: str, iteration: int | None, out: Path) -> None:
    """Take one agent, or the society as one model, out of a run.

    Models are safetensors that transformers, PEFT and vLLM read; training
    sets are chats, a line each, that TRL reads.
    """
    if (agent is None) != (what == "society-in-one"):
        fault = "missing; name an agent, such as critic-1" if agent is None else "a society has many; leave it out"
        raise UsageError(f"--agent: {fault}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: exists and is not an empty folder; name a new one")
    if what in {"model", "society-in-one"}:
        quiet_libraries()
    iterations = export(run, out, what, agent=agent, iteration=iteration)
    click.echo(f"{agent or 'society'}: {what} of iteration {', '.join(map(str, iterations))}: {out}")
