"""What fewer bits do to debates: the micro model's, on the same problems, in several precisions.

    python -m tests.benchmarks.bench_precision [--problems 1000] [--ways 'float32;bfloat16;bfloat16:quantization="fp8"']
    python -m tests.benchmarks.bench_precision --ways 'plain;rounded:matrices;rounded:cache;rounded:matrices+cache'

A way is a type, and with KEY=VALUE,... options of ours or arguments of
vLLM's; or it is one for machines without fp8: `plain` is the transformers engine
in float32, `rounded` the same with numbers rounded to those that fp8 has (see
``rounded.py``). N=3, M=2 with summaries at temperature 1 and top-p 0.9, untrained; each
way in a process of its own. Prints, how many of one answer, of the
majority of first answers and of the debate's votes are right, how often
debates are right where the first way's are not or the other way round, and
McNemar's exact p of that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hpcmaf.answers import equivalent
from hpcmaf.debate.consensus import consensus
from hpcmaf.debate.protocol import Protocol, debate
from hpcmaf.debate.society import Society
from hpcmaf.engines.base import Sampling, ServedModels
from hpcmaf.evaluation.significance import mcnemar
from hpcmaf.micro import base_path
from hpcmaf.tasks import get_task

WAYS = 'float32;bfloat16;bfloat16:quantization="fp8";bfloat16:kv_cache_dtype="fp8"'


def rounding_engine(what: str) -> Any:
    """The transformers engine, with some of its numbers rounded."""
    from hpcmaf.engines.transformers_engine import TransformersEngine
    from tests.benchmarks.rounded import round_attention, round_matrices

    engine = TransformersEngine(ServedModels(str(base_path()), "lora", {}, dtype="float32"), batch_size=256)
    model = engine.model(None)
    for part in filter(None, what.split("+")):
        {"matrices": round_matrices, "cache": round_attention}[part](model)
    return engine


def engine_for(way: str) -> Any:
    """The engine of a way."""
    from hpcmaf.engines.options import VllmOptions
    from hpcmaf.engines.vllm import VllmEngine

    dtype, _, extra = way.partition(":")
    if dtype in ("plain", "rounded"):
        return rounding_engine(extra)
    more = {key: json.loads(value) for key, value in (pair.split("=", 1) for pair in extra.split(",") if pair)}
    options = {key: value for key, value in more.items() if key in VllmOptions.model_fields}
    rest = {key: value for key, value in more.items() if key not in options}
    served = ServedModels(str(base_path()), "lora", {}, dtype=dtype)
    return VllmEngine(served, VllmOptions(enforce_eager=True, gpu_memory_utilization=0.3, vllm_args=rest, **options))


async def held(way: str, count: int) -> dict[str, Any]:
    """All debates in one precision."""
    engine = engine_for(way)
    task = get_task("arithmetic")
    problems = task.splits(None, 1, count, 0, None).eval
    protocol = Protocol(
        2, True, task.prompts("compact"), task.answer_form("compact"), Sampling(1.0, 0.9, 80), seed=0, iteration=0
    )
    try:
        began = time.monotonic()
        society = Society.of(3, [])
        debates = await asyncio.gather(*(debate(problem, society, protocol, engine) for problem in problems))
        seconds = time.monotonic() - began
    finally:
        engine.close()
    gold = {problem.id: str(problem.gold) for problem in problems}
    votes = [{one.problem.id: consensus(one, number, 0, 0).answer for one in debates} for number in (1, 2)]
    singles = {f"{one.problem.id} {n}": turn.answer for one in debates for n, turn in enumerate(one.answers[0])}
    return {
        "seconds": seconds,
        "single": right(singles, {key: gold[key.split()[0]] for key in singles}),
        "majority": right(votes[0], gold),
        "debate": right(votes[1], gold),
    }


def right(answers: dict[str, str | None], gold: dict[str, str]) -> dict[str, bool]:
    return {key: given is not None and equivalent(given, gold[key]) for key, given in answers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--ways", default=WAYS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        options.out.write_text(json.dumps(asyncio.run(held(options.one, options.problems))))
        return
    before: dict[str, Any] | None = None
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        for way in options.ways.split(";"):
            command = [sys.executable, "-m", "tests.benchmarks.bench_precision", "--problems", str(options.problems)]
            done = subprocess.run([*command, "--one", way, "--out", str(answer)])
            if done.returncode:
                print(f"FAILED {way}", flush=True)
                continue
            made = json.loads(answer.read_text())
            before = before or made
            shares = {key: round(sum(made[key].values()) / len(made[key]), 4) for key in made if key != "seconds"}
            test = mcnemar(before["debate"], made["debate"])
            told = {"way": way, **shares, "lost": test.a_only, "won": test.b_only, "p": round(test.p, 3)}
            print(f"RESULT {json.dumps(told | {'seconds': round(made['seconds'], 1)})}", flush=True)


if __name__ == "__main__":
    main()
