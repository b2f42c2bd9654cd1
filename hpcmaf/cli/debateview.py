"""A debate to read: in panels on a terminal, in plain lines everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcmaf.answers import Vote
    from hpcmaf.debate.transcript import Transcript, Utterance


@dataclass(frozen=True, slots=True)
class Part:
    """An utterance or a vote, under its heading; a vote has no turn."""

    heading: str
    style: str
    turn: Utterance | None = None


def readable(text: str) -> str:
    """Text without characters that could steer a terminal or that it cannot encode."""
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def parts(
    transcript: Transcript,
    votes: Sequence[Vote] = (),
    model: Callable[[int, int], str | None] | None = None,
) -> Iterator[Part]:
    """All that was said, in its order, each round with its vote where there is one.

    Parameters
    ----------
    model
        Whose model spoke for an agent in a round; shown where it is not the
        agent's own.
    """
    for m, answers in enumerate(transcript.answers, start=1):
        if m > 1 and transcript.summaries:
            for n, summary in enumerate(transcript.summaries[m - 2]):
                yield Part(f"round {m}, summary for critic-{n}", "yellow", summary)
        for n, answer in enumerate(answers):
            found = "no answer" if answer.answer is None else f"answer {readable(answer.answer)}"
            name = f"{'generator' if m == 1 else 'critic'}-{n}"
            own = name if model is None else model(m, n)
            by = "" if own == name else f" (model: {own or 'base'})"
            yield Part(f"round {m}, {name}{by}: {found}", "red" if answer.answer is None else "green", answer)
        if votes:
            yield Part(f"round {m}, vote: {vote_line(votes[m - 1])}", "bold")


def vote_line(vote: Vote) -> str:
    """Who won, and how."""
    if vote.answer is None:
        return "no answer could be read"
    return f"{readable(vote.answer)}, {vote.votes} of {len(vote.agrees)}{', drawn from a tie' if vote.tied else ''}"


def _footer(turn: Utterance) -> str:
    counts = f"{turn.prompt_tokens} prompt + {turn.completion_tokens} completion tokens"
    return (
        f"{counts if turn.prompt_tokens or turn.completion_tokens else 'tokens unknown'}, ended by {turn.finish_reason}"
    )


def plain_lines(head: Iterable[tuple[str, str]], shown: Iterable[Part], *, prompts: bool = True) -> Iterator[str]:
    """For pipes, logs and files."""
    for name, value in head:
        yield f"{readable(name)}: {readable(value)}"
    for part in shown:
        if part.turn is None:
            yield f"\n=== {part.heading}"
            continue
        yield f"\n=== {part.heading} ({_footer(part.turn)})"
        if prompts:
            yield f"--- prompt\n{readable(part.turn.prompt)}"
            yield "--- said"
        yield readable(part.turn.text)


def print_panels(head: Iterable[tuple[str, str]], shown: Iterable[Part], *, prompts: bool = True) -> None:
    """For a terminal."""
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.rule import Rule
    from rich.text import Text

    console = Console()
    lines = [Text.assemble((f"{readable(name)} ", "bold"), readable(value)) for name, value in head]
    console.print(Panel(Text("\n").join(lines), title="debate", border_style="bold"))
    for part in shown:
        if part.turn is None:
            console.print(Rule(Text(part.heading, style=part.style)))
            continue
        prompt = [Text(readable(part.turn.prompt), style="dim"), Text()] if prompts else []
        body = Group(*prompt, Text(readable(part.turn.text)))
        console.print(Panel(body, title=Text(part.heading), subtitle=_footer(part.turn), border_style=part.style))
