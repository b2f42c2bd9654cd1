"""A debate to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import click

from hpcmaf.answers import Vote
from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.errors import printable


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
    """Print every utterance in order, with or without its prompt, and each round with its vote where there is one.

    Before it stands ``head``, names and values. ``model`` says whose model spoke for an agent in a round, which is
    shown where it is not the agent's own.
    """
    for name, value in head:
        _echo(f"{name}: {value}")
    for m, answers in enumerate(transcript.answers, start=1):
        if m > transcript.ended and transcript.agents > 1:
            _echo(f"\n=== round {m} was not held: all agreed")
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
            _echo(f"\n=== round {m}, vote: {_outcome(votes[m - 1])}")


def _print(heading: str, turn: Utterance, prompts: bool) -> None:
    counts = f"{turn.prompt_tokens} prompt + {turn.completion_tokens} completion tokens"
    counts = counts if turn.prompt_tokens or turn.completion_tokens else "tokens unknown"
    _echo(f"\n=== {heading} ({counts}, ended by {turn.finish_reason})")
    if prompts:
        _echo(f"--- prompt\n{turn.prompt}\n--- response")
    _echo(turn.text)


def _echo(text: str) -> None:
    click.echo(printable(text, keep="\n\t"))


def _first_line(answer: str) -> str:
    """All of an answer but for a program, which begins with what its outputs are known by."""
    return answer.partition("\n")[0]


def _outcome(vote: Vote) -> str:
    if vote.answer is None:
        return "no answer could be read"
    return f"{_first_line(vote.answer)}, {vote.votes} of {len(vote.agrees)}{', drawn from a tie' if vote.tied else ''}"
