"""``hpcmaf simulate``: why agents that are trained apart stay different."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcmaf.cli.options import FiniteRange

if TYPE_CHECKING:
    from hpcmaf.report.tables import Table

# As many iterations as a terminal shows; the file has them all.
MOST_SHOWN = 11


@click.command("simulate")
@click.option("--agents", type=click.IntRange(2, 50), default=3, show_default=True, help="N.")
@click.option("--subtasks", type=click.IntRange(2, 50), default=3, show_default=True, help="K.")
@click.option("--iters", type=click.IntRange(1, 1000), default=40, show_default=True, help="L.")
@click.option("--problems", type=click.IntRange(1, 10**9), default=500, show_default=True, help="Of an iteration.")
@click.option(
    "--rate",
    type=FiniteRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="How far training moves a skill towards its data.",
)
@click.option("--runs", type=click.IntRange(1, 1000), default=100, show_default=True, help="Repetitions.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the plot and specialisation.csv.")
def command(
    agents: int, subtasks: int, iters: int, problems: int, rate: float, runs: int, seed: int, out: Path | None
) -> None:
    """Simulate specialisation: skills of agents, without language models.

    Every agent has a skill for each of K subtasks and is trained on what it
    alone answered right after the debate. Copies of one base drift apart, each
    to a subtask of its own; one model trained on everything stays where it is.
    """
    from rich.console import Console

    from hpcmaf.files.publish import write_text
    from hpcmaf.report.tables import render_table, rich_table
    from hpcmaf.simulation.drawing import course_rows, save_outcome
    from hpcmaf.simulation.specialisation import Setting, simulate

    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    outcome = simulate(Setting(agents, subtasks, iters, problems, rate, runs, seed))
    rows = course_rows(outcome)
    table, console = _table(rows, iters), Console()
    if console.is_terminal:
        console.print(rich_table(table))
    else:
        click.echo(render_table(table))
    if out is not None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
        write_text(out / "specialisation.csv", text.getvalue())
        save_outcome(outcome, out / "specialisation")
        click.echo(f"plot: {out / 'specialisation.png'}", err=True)


def _plain(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _table(rows: Sequence[Mapping[str, Any]], iterations: int) -> Table:
    from hpcmaf.report.tables import Table

    step = -(-iterations // (MOST_SHOWN - 1))
    shown = [t for t in range(iterations + 1) if t % step == 0 or t == iterations]
    by = {(row["training"], row["iteration"]): row for row in rows}
    cells = []
    for t in shown:
        apart, pooled = by["apart", t], by["pooled", t]
        figures = [apart[name] for name in ("variation", "strongest", "covered", "distinct")]
        figures += [pooled[name] for name in ("variation", "strongest", "covered")]
        cells.append((str(t), *(f"{value:.3f}" for value in figures)))
    header = ("iteration", "variation", "strongest", "covered", "distinct", *(f"pooled: {n}" for n in _NAMES))
    note = (
        "Means over runs. Variation: total variation distance of two agents' skills. Strongest: an agent's largest "
        "skill. Covered: probability that some agent is right. Distinct: share of runs whose agents are strongest at "
        "different subtasks, as far as there are enough. Pooled: one model that plays all agents, trained on all they "
        "learn from."
    )
    return Table("specialisation", header, tuple(cells), note)


_NAMES = ("variation", "strongest", "covered")
