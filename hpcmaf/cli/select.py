"""``hpcmaf select``: debates in, every agent's training data out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


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
    metavar="own|pairs|union|responses|gold",
    help="own: each agent's, as in the method; pairs: what an agent is to prefer, for DPO; for one model: their union; "
    "all responses that match the vote; or STaR's, by gold.",
)
@click.option(
    "--critics",
    type=click.Choice(["all", "disputed"]),
    default="all",
    show_default=True,
    help="disputed: critics learn only where the others did not agree.",
)
def command(store: Path, out: Path, w: float, seed: int, mix: str, data: str, critics: str) -> None:
    """Write generator-n.jsonl and critic-n.jsonl (or single.jsonl) and selection.json from STORE into the folder OUT.

    Labels are the debates' own votes; gold answers are not read, but for --data gold. OUT is replaced.
    """
    from hpcmaf.errors import UsageError
    from hpcmaf.training.mixing import check_mix
    from hpcmaf.training.parts import check_data
    from hpcmaf.training.selection import write_selection

    check_mix(w, mix)
    check_data(data)
    if out.is_dir() and any(out.iterdir()) and not (out / "selection.json").is_file():
        raise UsageError(f"{out}: holds files that are not a selection; name a new folder")
    summary = write_selection(store, out, w=w, seed=seed, mix=mix, data=data, critics=critics)
    if not sys.stdout.isatty():
        click.echo(json.dumps(summary, indent=1, sort_keys=True))
        return
    click.echo(f"{summary['labelled']} of {summary['problems']} problems labelled, {summary['ties']} by drawing a tie")
    for agent, counts in summary["datasets"].items():
        share = "-" if counts["realised_w"] is None else f"{counts['realised_w']:.3f}"
        click.echo(
            f"{agent}: {counts['kept']} of {counts['candidates']} kept "
            f"({counts['kept_positives']} positive, {counts['kept_negatives']} negative, realised w {share})"
        )
