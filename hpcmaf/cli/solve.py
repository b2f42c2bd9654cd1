"""``hpcmaf solve``: a question to a finetuned society, and its debate to read."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from hpcmaf.cli.debateview import debate_json, print_debate
from hpcmaf.cli.options import device_option, quiet_libraries, run_argument
from hpcmaf.errors import UsageError
from hpcmaf.jobs.solve import solve
from hpcmaf.run.directory import RunDir


@click.command("solve")
@run_argument
@click.argument("question")
@click.option("--iter", "iteration", type=click.IntRange(min=0), help="Whose society; 0: the base [default: the last].")
@click.option("--seed", type=click.IntRange(min=0), help="Of the draws [default: the run's].")
@device_option
@click.option("--prompts", is_flag=True, help="Show also the prompt of each agent.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(
    run: RunDir, question: str, iteration: int | None, seed: int | None, device: str, prompts: bool, as_json: bool
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
    quiet_libraries()
    found = solve(run, text, iteration=iteration, seed=seed, device=device)
    transcript, answer = found.transcript, found.votes[-1].answer
    if as_json:
        about = {"run": str(run.root), "method": found.method, "iteration": found.iteration, "seed": found.seed}
        models = [[found.model(m, n) for n in range(transcript.agents)] for m in range(1, transcript.rounds + 1)]
        votes = [asdict(vote) for vote in found.votes]
        click.echo(debate_json(transcript, answer=answer, votes=votes, models=models, bases=dict(found.bases), **about))
        return
    society = "the untouched base" if found.iteration == 0 else f"iteration {found.iteration}"
    bases = ", ".join(f"{name}: {base}" for name, base in found.bases.items())
    head = {
        "question": transcript.problem.question,
        "society": f"{found.method}, {society}, N={transcript.agents}, M={transcript.rounds}",
        **({"other bases": bases} if bases else {}),
        "answer": "none: no answer of the last round could be read" if answer is None else answer,
    }
    print_debate(head.items(), transcript, found.votes, found.model, prompts=prompts)
