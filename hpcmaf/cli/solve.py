"""``hpcmaf solve``: a question to a finetuned society, and its debate to read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from hpcmaf.errors import UsageError

if TYPE_CHECKING:
    from hpcmaf.jobs.solve import Solved


@click.command("solve")
@click.argument("run")
@click.argument("question")
@click.option("--iter", "iteration", type=click.IntRange(min=0), help="Whose society; 0: the base [default: the last].")
@click.option("--seed", type=click.IntRange(min=0), help="Of the draws [default: the run's].")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--prompts", is_flag=True, help="Show also the prompt of each agent.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(
    run: str, question: str, iteration: int | None, seed: int | None, device: str, prompts: bool, as_json: bool
) -> None:
    """Ask the society of a run a question and show the debate.

    Every agent's answer in every round, the summaries it read, and each
    round's vote; the last vote is the society's answer. The question is put
    as an evaluation problem of the run would be; '-' reads it from standard
    input. The same seed gives the same debate.
    """
    text = (sys.stdin.read() if question == "-" else question).strip()
    if not text:
        raise UsageError("QUESTION is empty; write one")

    from hpcmaf.cli.debateview import print_debate
    from hpcmaf.cli.options import quiet_libraries
    from hpcmaf.jobs.solve import solve
    from hpcmaf.run.directory import RunDir

    quiet_libraries()
    found = solve(RunDir.locate(run), text, iteration=iteration, seed=seed, device=device)
    if as_json:
        # Escaped to ASCII: lone surrogates have no other form in JSON.
        click.echo(json.dumps({"run": str(RunDir.locate(run).root), **_value(found)}, indent=1))
        return
    print_debate(_head(found), found.transcript, found.votes, found.model, prompts=prompts)


def _head(found: Solved) -> Iterator[tuple[str, str]]:
    transcript = found.transcript
    yield "question", transcript.problem.question
    society = "the untouched base" if found.iteration == 0 else f"iteration {found.iteration}"
    yield "society", f"{found.method}, {society}, N={transcript.agents}, M={transcript.rounds}"
    if found.bases:
        yield "other bases", ", ".join(f"{name}: {base}" for name, base in found.bases.items())
    answer = found.votes[-1].answer
    yield "answer", "none: no answer of the last round could be read" if answer is None else answer


def _value(found: Solved) -> dict[str, Any]:
    transcript = found.transcript
    rounds = []
    for m, (answers, vote) in enumerate(zip(transcript.answers, found.votes, strict=True), start=1):
        summaries = transcript.summaries[m - 2] if m > 1 and transcript.summaries else ()
        responses = [
            asdict(turn) | {"model": found.model(m, n), "agrees": vote.agrees[n]} for n, turn in enumerate(answers)
        ]
        result = {"answer": vote.answer, "votes": vote.votes, "tied": vote.tied}
        rounds.append(
            {"round": m, "summaries": [asdict(turn) for turn in summaries], "answers": responses, "vote": result}
        )
    return {
        "method": found.method,
        "iteration": found.iteration,
        "seed": found.seed,
        "question": transcript.problem.question,
        "answer": found.votes[-1].answer,
        **({"judgement": asdict(transcript.judgement)} if transcript.judgement else {}),
        **({"bases": dict(found.bases)} if found.bases else {}),
        "rounds": rounds,
    }
