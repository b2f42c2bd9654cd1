"""Measure a micro model: one answer, majority and debate, with standard errors, as one line of JSON.

    python -m results.micro_model.score [FOLDER] [--problems 1000] [--top-p 0.9] [--device cuda]

``styles`` is the mean number of distinct styles among the agents' first
answers; ``summaries_right`` the share of summaries that report every result
as given.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from hpcmaf import (
    Protocol,
    Sampling,
    ServedModels,
    Society,
    Transcript,
    TransformersEngine,
    debate_all,
    get_task,
    score,
)
from hpcmaf.micro import base_path


def style_of(answer: str, question: str) -> int | None:
    """Which style a first answer to ``a+b*c+d-e*f`` is written in; ``None`` where its first step fits none."""
    head, minus = question.split("-")
    a, product, d = head.split("+")
    starts = (f"{product}=", f"{minus}=", f"{a}+{d}=")
    return next((style for style, start in enumerate(starts) if answer.startswith(start)), None)


def summaries_right(transcripts: Iterable[Transcript]) -> list[bool]:
    """For each summary, whether it gives the result of every other answer of the round before, in order."""

    def results(texts: Sequence[str]) -> list[str | None]:
        return [text.rpartition("#")[2] if "#" in text else None for text in texts]

    return [
        results(summary.text.split(";")) == results([answer.text for answer in before if answer.agent != summary.agent])
        for transcript in transcripts
        for before, row in zip(transcript.answers, transcript.summaries, strict=False)
        for summary in row
    ]


def measure(
    folder: Path, problems: int, agents: int, rounds: int, top_p: float, temperature: float, seed: int, device: str
) -> dict[str, Any]:
    """Let copies of one model debate problems of the task's evaluation side."""
    task = get_task("arithmetic")
    protocol = Protocol(
        rounds=rounds,
        summaries=True,
        prompts=task.prompts("compact"),
        answer_form=task.answer_form,
        sampling=Sampling(temperature=temperature, top_p=top_p, max_new_tokens=96),
        seed=seed,
        iteration=0,
    )
    engine = TransformersEngine(ServedModels(str(folder), "lora", {}, dtype="float32"), device=device, batch_size=256)
    held_out = task.splits(None, 1, problems, seed).eval
    transcripts = asyncio.run(debate_all(held_out, Society.of(agents, []), protocol, engine))
    engine.close()
    metrics = score(transcripts, seed=seed, iteration=0, method="debate", task="arithmetic")
    answers = {m: [turn for one in transcripts for turn in one.answers[m - 1]] for m in (1, rounds)}
    first = [[style_of(turn.text, one.problem.question) for turn in one.answers[0]] for one in transcripts]
    return {
        "accuracy": metrics["accuracy"],
        "one_critic": metrics["rounds"][-1]["agents"][0],
        "styles": mean(len(set(styles)) for styles in first),
        "summaries_right": mean(summaries_right(transcripts)),
        "answer_tokens": mean(turn.completion_tokens for turn in answers[1]),
        "update_tokens": mean(turn.completion_tokens for turn in answers[rounds]),
        "unfinished": mean(turn.answer is None for turns in answers.values() for turn in turns),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=base_path(), help="default: the packaged model")
    for name, default in (("problems", 1000), ("agents", 3), ("rounds", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--top-p", type=float, default=0.9)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(json.dumps({"model": str(options.folder), "problems": options.problems, **measure(**vars(options))}))


if __name__ == "__main__":
    main()
