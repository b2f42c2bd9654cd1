"""A debate to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import click

from hpcmaf.answers import Vote
from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.errors import printable

readable = partial(printable, keep="\n\t")


def debate_json(transcript: Transcript, **about: Any) -> str:
    """A debate, behind what else is known about it, as JSON in ASCII: lone surrogates have no other form there."""
    return json.dumps(about | {name: value for name, value in asdict(transcript).items() if name != "grader"}, indent=1)


def print_debate(
    head: Iterable[tuple[str, str]],
    transcript: Transcript,
    votes: Sequence[Vote] = (),
    model: Callable[[int, int], str | None] | None = None,
    *,
    prompts: bool = True,
) -> None:
    """Print every utterance in order, each round with its vote where there is one.

    Parameters
    ----------
    head
        Names and values to begin with.
    model
        Whose model spoke for an agent in a round; shown where it is not the
        agent's own.
    prompts
        Whether to print what each agent read.
    """
    for name, value in head:
        click.echo(f"{readable(name)}: {readable(value)}")
    for m, answers in enumerate(transcript.answers, start=1):
        if m > transcript.ended and transcript.agents > 1:
            click.echo(f"\n=== round {m} was not held: all agreed")
            continue
        if m > 1 and transcript.summaries:
            for n, summary in enumerate(transcript.summaries[m - 2]):
                _print(f"round {m}, summary for critic-{n}", summary, prompts)
        for n, answer in enumerate(answers):
            name = f"{'generator' if m == 1 else 'critic'}-{n}"
            own = name if model is None else model(m, n)
            by = "" if own == name else f" (model: {own or 'base'})"
            found = "no answer" if answer.answer is None else f"answer {_first_line(answer.answer)}"
            _print(f"round {m}, {name}{by}: {found}", answer, prompts)
        if m == transcript.rounds and transcript.judgement:
            _print("judge", transcript.judgement, prompts)
        if votes:
            click.echo(f"\n=== round {m}, vote: {vote_line(votes[m - 1])}")


def _print(heading: str, turn: Utterance, prompts: bool) -> None:
    counts = f"{turn.prompt_tokens} prompt + {turn.completion_tokens} completion tokens"
    counts = counts if turn.prompt_tokens or turn.completion_tokens else "tokens unknown"
    click.echo(f"\n=== {heading} ({counts}, ended by {turn.finish_reason})")
    if prompts:
        click.echo(f"--- prompt\n{readable(turn.prompt)}\n--- response")
    click.echo(readable(turn.text))


def _first_line(answer: str) -> str:
    """All of an answer but for a program, which begins with what its outputs are known by."""
    return readable(answer.partition("\n")[0])


def vote_line(vote: Vote) -> str:
    """Who won, and how."""
    if vote.answer is None:
        return "no answer could be read"
    return f"{_first_line(vote.answer)}, {vote.votes} of {len(vote.agrees)}{', drawn from a tie' if vote.tied else ''}"
