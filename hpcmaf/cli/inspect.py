"""``hpcmaf inspect``: what a store holds, or one debate to read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from hpcmaf.cli.debateview import print_debate
from hpcmaf.errors import one_line
from hpcmaf.store import Store


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--problem", "problem_id", metavar="ID", help="Show this problem's whole debate.")
def command(store: Path, problem_id: str | None) -> None:
    """Show what is in a debate store."""
    with Store(store) as opened:
        if problem_id is None:
            click.echo("\n".join(_lines(store, opened)))
            return
        transcript = opened.find(problem_id, gold=True)
    problem = transcript.problem
    gold = "unknown" if problem.gold is None else problem.gold
    print_debate({"problem": problem.id, "question": problem.question, "gold": gold, **problem.meta}, transcript)


def _lines(path: Path, store: Store) -> Iterator[str]:
    info = store.info
    yield f"store        {path}"
    yield f"task         {info.task}, answers as {info.answer_form}"
    yield f"debates      iteration {info.iteration}, split {info.split}"
    with_summaries = "with" if info.summaries else "without"
    judge = ", and a judge" if info.aggregate else ""
    yield f"society      {info.agents} agents x {info.rounds} rounds, {with_summaries} summaries{judge}"
    yield f"problems     {len(store)}"
    if ids := store.problem_ids[:3]:
        yield one_line(f"such as      {', '.join(ids)}")
