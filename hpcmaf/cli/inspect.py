"""``hpcmaf inspect``: what is in a store, as counts and shares, or one debate to read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcmaf.cli.debateview import print_debate

if TYPE_CHECKING:
    from hpcmaf.debate.transcript import Transcript


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--problem", "problem_id", metavar="ID", help="Show this problem's whole debate.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(store: Path, problem_id: str | None, as_json: bool) -> None:
    """Show what is in a debate store."""
    from hpcmaf.store import Store
    from hpcmaf.store.summary import summarise

    with Store(store) as opened:
        if problem_id is None:
            summary = summarise(opened)
            click.echo(json.dumps(summary, indent=1) if as_json else "\n".join(_summary_lines(summary)))
            return
        transcript = opened.find(problem_id, gold=True)
    if as_json:
        # Escaped to ASCII: lone surrogates have no other form in JSON.
        click.echo(json.dumps(asdict(transcript), indent=1))
    else:
        print_debate(_head(transcript), transcript)


def _summary_lines(summary: dict[str, Any]) -> Iterator[str]:
    yield f"store        {summary['path']} (version {summary['version']})"
    yield f"task         {summary['task']}, answers as {summary['answer_form']}"
    yield f"debates      iteration {summary['iteration']}, split {summary['split']}"
    yield f"problems     {summary['problems']}"
    with_summaries = "with" if summary["summaries"] else "without"
    yield f"society      {summary['agents']} agents x {summary['rounds']} rounds, {with_summaries} summaries"
    yield f"utterances   {summary['utterances']}"
    for kind, tokens in summary["tokens"].items():
        yield f"tokens       {kind}: {tokens['prompt']} prompt, {tokens['completion']} completion"
    for round in summary["by_round"]:
        reasons = ", ".join(f"{name} {count}" for name, count in round["finish_reasons"].items() if count)
        yield (
            f"round {round['round']:<6} parsed {_share(round['parsed'])}, same answer {_share(round['same_answer'])}, "
            f"answer {_bytes(round['answer_bytes'])}, summary {_bytes(round['summary_bytes'])}, "
            f"ended by: {reasons or '-'}"
        )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _bytes(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} bytes"


def _head(transcript: Transcript) -> Iterator[tuple[str, str]]:
    problem = transcript.problem
    yield "problem", problem.id
    yield "question", problem.question
    yield "gold", "unknown" if problem.gold is None else problem.gold
    yield from problem.meta.items()
