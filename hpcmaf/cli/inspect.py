"""``hpcmaf inspect``: what is in a store, as figures or as one debate to read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hpcmaf.debate.transcript import Transcript, Utterance


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--problem", "problem_id", metavar="ID", help="Show this problem's whole debate.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(store: Path, problem_id: str | None, as_json: bool) -> None:
    """Show what a debate store holds."""
    from hpcmaf.store import Store
    from hpcmaf.store.summary import summarise

    with Store(store) as opened:
        if problem_id is None:
            figures = summarise(opened)
            click.echo(json.dumps(figures, indent=1) if as_json else "\n".join(_summary_lines(figures)))
            return
        transcript = opened.find(problem_id, gold=True)
    if as_json:
        # Escaped to ASCII: lone surrogates have no other place in JSON.
        click.echo(json.dumps(asdict(transcript), indent=1))
    elif sys.stdout.isatty():
        _show_panels(transcript)
    else:
        click.echo("\n".join(_plain_lines(transcript)))


def _summary_lines(figures: dict[str, Any]) -> Iterator[str]:
    yield f"store        {figures['path']} (version {figures['version']})"
    yield f"task         {figures['task']}, answers as {figures['answer_form']}"
    yield f"debates      iteration {figures['iteration']}, split {figures['split']}"
    yield f"problems     {figures['problems']}"
    with_summaries = "with" if figures["summaries"] else "without"
    yield f"society      {figures['agents']} agents x {figures['rounds']} rounds, {with_summaries} summaries"
    yield f"utterances   {figures['utterances']}"
    for kind, tokens in figures["tokens"].items():
        yield f"tokens       {kind}: {tokens['prompt']} prompt, {tokens['completion']} completion"
    for round in figures["by_round"]:
        reasons = ", ".join(f"{name} {count}" for name, count in round["finish_reasons"].items() if count)
        yield (
            f"round {round['round']:<6} parsed {_share(round['parsed'])}, same answer {_share(round['same_answer'])}, "
            f"answer {_bytes(round['answer_bytes'])}, summary {_bytes(round['summary_bytes'])}, ended by: {reasons or '-'}"
        )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _bytes(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} bytes"


def _readable(text: str) -> str:
    """Text without characters that could steer a terminal or that it cannot encode."""
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _head(transcript: Transcript) -> Iterator[tuple[str, str]]:
    problem = transcript.problem
    yield "problem", problem.id
    yield "question", problem.question
    yield "gold", "unknown" if problem.gold is None else problem.gold
    yield from problem.meta.items()


def _turns(transcript: Transcript) -> Iterator[tuple[str, Utterance]]:
    """Utterances as they were said, each with its heading."""
    for m, answers in enumerate(transcript.answers, start=1):
        if m > 1 and transcript.summaries:
            for n, summary in enumerate(transcript.summaries[m - 2]):
                yield f"round {m}, summary for critic-{n}", summary
        for n, answer in enumerate(answers):
            found = "no answer" if answer.answer is None else f"answer {_readable(answer.answer)}"
            yield f"round {m}, {'generator' if m == 1 else 'critic'}-{n}: {found}", answer


def _footer(turn: Utterance) -> str:
    counts = f"{turn.prompt_tokens} prompt + {turn.completion_tokens} completion tokens"
    return (
        f"{counts if turn.prompt_tokens or turn.completion_tokens else 'tokens unknown'}, ended by {turn.finish_reason}"
    )


def _plain_lines(transcript: Transcript) -> Iterator[str]:
    for name, value in _head(transcript):
        yield f"{_readable(name)}: {_readable(value)}"
    for heading, turn in _turns(transcript):
        yield f"\n=== {heading} ({_footer(turn)})"
        yield f"--- prompt\n{_readable(turn.prompt)}"
        yield f"--- said\n{_readable(turn.text)}"


def _show_panels(transcript: Transcript) -> None:
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.text import Text

    console = Console()
    head = Text("\n").join(
        Text.assemble((f"{_readable(name)} ", "bold"), _readable(value)) for name, value in _head(transcript)
    )
    console.print(Panel(head, title="debate", border_style="bold"))
    for heading, turn in _turns(transcript):
        body = Group(Text(_readable(turn.prompt), style="dim"), Text(), Text(_readable(turn.text)))
        style = "yellow" if turn.kind == "summary" else ("green" if turn.answer is not None else "red")
        console.print(Panel(body, title=Text(heading), subtitle=_footer(turn), border_style=style))
