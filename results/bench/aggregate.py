"""Seconds and memory of ``hpcmaf aggregate`` over many finished runs.

    python -m results.bench.aggregate [--runs 100] [--problems 1000]

Runs of ten recipes, each with the base and five iterations, invented once and
copied over seeds with their scores shuffled; then the command as a process of
its own, with a baseline to test against. Prints wall and CPU seconds, the
highest resident size, and the size of the page.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hpcmaf.config.profile import Profile
from hpcmaf.config.recipe import Recipe
from hpcmaf.debate.methods import METHODS
from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.evaluation.accuracy import score
from hpcmaf.files.publish import write_json
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import build_plan
from hpcmaf.tasks.problems import Problem


def invented(problems: int, skill: float) -> list[Transcript]:
    """Debates of three agents in two rounds."""
    draw = random.Random(skill)

    def utterance(m: int, agent: int, gold: str) -> Utterance:
        answer = gold if draw.random() < skill + 0.1 * m else draw.choice(["-1", "-2", "-3"])
        return Utterance("answer", m, agent, "?", answer, answer)

    return [
        Transcript(
            Problem(f"problem-{i:05d}", "?", str(i)),
            tuple(tuple(utterance(m, n, str(i)) for n in range(3)) for m in (1, 2)),
        )
        for i in range(problems)
    ]


def make(folder: Path, runs: int, problems: int) -> list[Path]:
    """Write the run directories."""
    measured = [
        score(invented(problems, 0.4 + 0.05 * t), seed=0, iteration=t, method="maft", task="arithmetic")
        for t in range(6)
    ]
    rows = [
        {
            "stage": stage,
            "agent": f"{role}-{n}",
            "prompt_tokens": 10**6,
            "completion_tokens": 10**5,
            "wall_seconds": 60.0,
        }
        for stage in ("debate", "eval")
        for role in ("generator", "critic")
        for n in range(3)
        for _ in range(20)
    ]
    methods = [name for name, method in METHODS.items() if method.trained_agents(3, 2)][:10]
    draw = random.Random(0)
    made = []
    for number in range(runs):
        method, seed = methods[number % len(methods)], number // len(methods)
        values = {"name": "bench", "model": {"path": "/models/tiny"}, "task": {"name": "arithmetic"}}
        recipe = Recipe.model_validate(values | {"seed": seed, "iterations": 5, "method": method})
        run = RunDir(folder / f"{method}-{seed}")
        splits = {"train": {"count": 500, "sha256": "0"}, "eval": {"count": problems, "sha256": "1"}}
        write_json(run.plan, build_plan(recipe, Profile(name="none"), splits, "tiny").to_json())
        for t, metrics in enumerate(measured):
            order = draw.sample(range(problems), problems)
            scores = {
                name: "".join(marks[i] for i in order) if isinstance(marks, str) else marks
                for name, marks in metrics["scores"].items()
            }
            run.iteration(t).mkdir(parents=True)
            run.metrics(t).write_text(json.dumps(metrics | {"method": method, "scores": scores}))
            run.ledger(t).write_text(json.dumps({"schema": "hpcmaf-ledger/1", "rows": rows}))
        made.append(run.root)
    return made


def main() -> None:
    """Make runs, aggregate them, print a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--keep", type=Path, help="Folder for runs and report, kept.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        paths = make(folder / "runs", options.runs, options.problems)
        command = [sys.executable, "-m", "hpcmaf", "aggregate", *map(str, paths), "--out", str(folder / "report")]
        command += ["--baseline", "majority"]
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        if status:
            raise SystemExit(f"aggregate failed with status {status}")
        page = (folder / "report" / "report.html").stat().st_size
        print(
            f"{options.runs} runs x 6 x {options.problems:,} problems: {wall:.1f} s, "
            f"{usage.ru_utime + usage.ru_stime:.1f} s of CPU, {usage.ru_maxrss / 1024:.0f} MB, page {page / 1e6:.1f} MB"
        )


if __name__ == "__main__":
    main()
