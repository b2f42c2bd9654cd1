"""``hpcmaf inspect``: what a store holds, or one debate to read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hpcmaf.cli.debateview import debate_json, print_debate
from hpcmaf.errors import one_line
from hpcmaf.store.reader import Store


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--problem", "problem_id", metavar="ID", help="Show this problem's whole debate.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(store: Path, problem_id: str | None, as_json: bool) -> None:
    """Show what is in a debate store."""
    with Store(store) as opened:
        if problem_id is None:
            facts = {"path": str(store), **asdict(opened.info), "problems": len(opened), "ids": opened.problem_ids}
            click.echo(json.dumps(facts, indent=1) if as_json else "\n".join(_lines(facts)))
            return
        transcript = opened.find(problem_id, gold=True)
    if as_json:
        click.echo(debate_json(transcript))
        return
    problem = transcript.problem
    gold = "unknown" if problem.gold is None else problem.gold
    head = [("problem", problem.id), ("question", problem.question), ("gold", gold), *problem.meta.items()]
    print_debate(head, transcript)


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    yield f"store        {facts['path']}"
    yield f"task         {facts['task']}, answers as {facts['answer_form']}"
    yield f"debates      iteration {facts['iteration']}, split {facts['split']}"
    with_summaries = "with" if facts["summaries"] else "without"
    judge = ", and a judge" if facts["aggregate"] else ""
    yield f"society      {facts['agents']} agents x {facts['rounds']} rounds, {with_summaries} summaries{judge}"
    yield f"problems     {facts['problems']}"
    if facts["ids"]:
        yield one_line(f"such as      {', '.join(facts['ids'][:3])}")
