"""``hpcmaf select``: debates in, every agent's training data out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from hpcmaf.config.recipe import Selection
from hpcmaf.debate.health import health_warnings, selected
from hpcmaf.errors import UsageError
from hpcmaf.files.yaml import validate
from hpcmaf.selection.select import write_selection


@click.command(short_help="Choose every agent's training data from a store.")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--w", type=float, required=True, help="Share of corrections (wrong first, right last) in critics' data.")
@click.option("--seed", type=int, required=True, help="The run's seed; decides ties and which trajectories are kept.")
@click.option(
    "--mix",
    default="exact",
    show_default=True,
    metavar="exact|cap|released",
    help="exact: share w, as large as both sides allow; cap: all that began right, at most share w that did not; "
    "released: as the paper's code, w unused.",
)
@click.option(
    "--data",
    default="own",
    show_default=True,
    metavar="own|pairs|judged|groups|union|responses|voted|gold",
    help="own: each agent's, as in the method; pairs: what an agent is to prefer, for DPO; judged: all responses and "
    "whether they match the vote, for KTO; groups: those to one question with advantages, for GRPO; for one model: "
    "their union; all responses that match the vote; voted: own, and what one model is to say alone; STaR's, by gold.",
)
@click.option(
    "--thinking",
    type=click.Choice(["keep", "strip"]),
    default="keep",
    show_default=True,
    help="What becomes of thoughts in the turns that will be trained.",
)
def command(store: Path, out: Path, w: float, seed: int, **choice: Any) -> None:
    """Write generator-n.jsonl and critic-n.jsonl (or single.jsonl) and selection.json from STORE into the folder OUT.

    Labels are the debates' own votes; gold answers are not read, but for --data gold. OUT is replaced.
    """
    rules = validate(Selection, {"w": w, "mix": choice.pop("mix")}, "hpcmaf select")
    if out.is_dir() and any(out.iterdir()) and not (out / "selection.json").is_file():
        raise UsageError(f"{out}: has files that are not a selection; name a new folder")
    summary = write_selection(store, out, rules, seed=seed, **choice)
    agents = [agent for agent in summary["datasets"] if summary["rounds"] > 1 or not agent.startswith("critic")]
    for warning in health_warnings({f"iteration {summary['iteration']}": selected(summary, agents)}):
        click.echo(f"warning: {warning}", err=True)
    click.echo(json.dumps(summary, indent=1, sort_keys=True))
