"""Debates of an 8B society on GPUs: requests that move on by themselves, against the ways one would try first.

    python -m tests.benchmarks.bench_debate --out FOLDER                       # loop, peer, ours: about 9 minutes
    python -m tests.benchmarks.bench_debate --out FOLDER --parts uneven        # about 6 minutes
    python -m tests.benchmarks.bench_debate --out FOLDER --parts two           # on two GPUs: about 5 minutes
    python -m tests.benchmarks.bench_debate --out FOLDER --parts ours,ours:seeded=false,ours:kv_cache_dtype=\'"fp8"\'

N=3, M=2 with summaries and six rank-16 adapters on every linear layer of a
model of Llama-3-8B's shape with random weights: 4,500 calls at 500 problems.
Random weights never end a text, so each call's length is set beforehand: 300
tokens, or drawn (uneven), the same for all contestants.

The parts of a command run one after the other on the same GPUs, each in a
process of its own, so nothing is left in memory for the next. Starting is
reported apart; all share one cache of what is compiled.

A part that fails leaves the others be.

loop      one prompt at a time through transformers; a call of each kind is timed
peer      vLLM with all adapters, phase by phase: round 1, summaries, round 2
ours      the engine of this project; with KEY=VALUE;... of its options, of
          vLLM's arguments, or seeded=false
uneven    our engine with answers of uneven lengths, then the same phase by
          phase, with a plot of both over time; with shard=N in shards of N
          problems, each both ways, one after another (the plot is of the last)
two       ours on one GPU, then with two engines on two
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hpcmaf.engines.base import Request, Sampling, ServedModels
from tests.benchmarks.debate_contestants import Barrier, PhaseByPhase, one_at_a_time
from tests.benchmarks.debate_watch import Watch, draw
from tests.benchmarks.debate_workload import AGENTS, NAMES, SHAPE, TINY, Work, hold, make_adapters, make_model

CONTEXT = 8192


def start_ours(model: Path, adapters: dict[str, str], more: dict[str, Any]) -> Any:
    """Our engine, with options or vLLM's arguments changed."""
    from hpcmaf.engines.vllm_engine import VllmEngine
    from hpcmaf.engines.vllm_options import VllmOptions

    own = {field.name for field in fields(VllmOptions)} - {"arguments"}
    options = {"max_model_len": CONTEXT} | {key: value for key, value in more.items() if key in own}
    arguments = {"load_format": "dummy"} | {key: value for key, value in more.items() if key not in own}
    return VllmEngine(ServedModels(str(model), "lora", adapters), VllmOptions(**options, arguments=arguments))


async def warm(engine: Any) -> float:
    """Start it, with a short call of everybody's for each of its engines; returns the seconds of that."""
    began = time.monotonic()
    requests = [
        Request(f"{i}", ({"role": "user", "content": f"w{7 + i}"},), [None, *NAMES][i % 7], 0, Sampling(1.0, 1.0, 8))
        for i in range(200 * len(engine.seats))
    ]
    await asyncio.gather(*map(engine.complete, requests))
    while not all(seat.ready for seat in engine.seats):
        await asyncio.sleep(0.2)
    return time.monotonic() - began


async def ours(model: Path, adapters: dict[str, str], more: dict[str, Any], work: Work) -> dict[str, Any]:
    engine = start_ours(model, adapters, more)
    try:
        started = await warm(engine)
        before = engine.reused_tokens
        with Watch(engine) as watch:
            made = await hold(work, engine)
        made |= watch.summary(sum(seat.size for seat in engine.seats))
        reused = engine.reused_tokens - before
        sizes = {"weights_gb": engine.weights_bytes / 1e9, "peak_gb": engine.peak_memory_bytes / 1e9}
        return {"start": started, **made, "reused_tokens": reused, "gpus": engine.gpus, **sizes}
    finally:
        engine.close()


async def uneven(
    model: Path, adapters: dict[str, str], more: dict[str, Any], work: Work, out: Path, shard: int | None
) -> dict[str, Any]:
    """Both ways on one engine, all problems at once or shard by shard."""
    shard = shard or work.problems
    engine = start_ours(model, adapters, more)
    try:
        result: dict[str, Any] = {"start": await warm(engine)}
        seats, over_time = engine.seats[0].size, {}
        for words, first in enumerate(range(0, work.problems, shard)):
            own = replace(work, problems=min(shard, work.problems - first))
            ways = {"dataflow": engine, "phase by phase": Barrier(engine, own.problems * AGENTS)}
            for half, (name, contestant) in enumerate(ways.items()):
                with Watch(engine) as watch:
                    made = await hold(own, contestant, 2 * words + half, first)
                over_time[name] = watch.samples
                now = {**made, **watch.summary(seats)}
                # At once: a limit may end the others.
                print(f"HALF {first} {name} {json.dumps(now)}", flush=True)
                before = result.setdefault(name, {"seconds": 0.0, "each": []})
                result[name] = now | {"seconds": before["seconds"] + now["seconds"]}
                result[name]["each"] = [*before["each"], round(now["seconds"], 1)]
        draw(over_time, seats, out / "uneven.png")
        return result | {"seats": seats, "over_time": over_time}
    finally:
        engine.close()


def peer(model: Path, adapters: dict[str, str], work: Work) -> dict[str, Any]:
    began = time.monotonic()
    values = {"max_model_len": CONTEXT, "max_num_seqs": 512, "gpu_memory_utilization": 0.9, "load_format": "dummy"}
    contestant = PhaseByPhase(model, adapters, values | {"seed": 0}, work.problems * AGENTS)
    started = time.monotonic() - began
    return {"start": started, **asyncio.run(hold(work, contestant)), "phases": contestant.spent}


def run_part(part: str, arguments: Any) -> dict[str, Any]:
    """One contestant, in this process."""
    shape = TINY if arguments.tiny else SHAPE
    folder = arguments.out / "models"
    model = folder / "base"
    make_model(model, shape)
    adapters = make_adapters(folder / "adapters", shape)
    name, _, extra = part.partition(":")
    more = {key: json.loads(value) for key, value in (pair.split("=", 1) for pair in extra.split(";") if pair)}
    seeded, shard = more.pop("seeded", True), more.pop("shard", None)
    work = Work(arguments.problems, 20 if arguments.tiny else 300, arguments.top_p, seeded)
    if name == "loop":
        return one_at_a_time(model, work)
    if name == "peer":
        return peer(model, adapters, work)
    if name == "uneven":
        drawn = Work(arguments.problems, None, arguments.top_p, shorter=25 if arguments.tiny else 1)
        return asyncio.run(uneven(model, adapters, more, drawn, arguments.out, shard))
    return asyncio.run(ours(model, adapters, more, work))


def compare(made: dict[str, Any]) -> dict[str, float]:
    """The ratios that matter, of what this command has measured."""
    ratios = {}
    if "ours" in made:
        for other in ("peer", "loop"):
            if other in made:
                ratios[f"ours in parts of {other}"] = made["ours"]["seconds"] / made[other]["seconds"]
    for part in (name for name in made if name.startswith("uneven")):
        slow, fast = made[part]["phase by phase"]["seconds"], made[part]["dataflow"]["seconds"]
        ratios[f"{part}: phase by phase in parts of dataflow"] = slow / fast
    if "ours:engines=2" in made:
        ratios["two GPUs in parts of one"] = made["ours"]["seconds"] / made["ours:engines=2"]["seconds"]
    return {name: round(value, 4) for name, value in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="loop,peer,ours")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--tiny", action="store_true", help="a small shape and short answers, to try the script")
    parser.add_argument("--out", type=Path, default=Path("/tmp/bench_debate"))
    parser.add_argument("--limit", type=float, default=900, help="seconds that a part may take")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        (arguments.out / "part.json").write_text(json.dumps(run_part(arguments.one, arguments)))
        return
    parts = arguments.parts.replace("two", "ours,ours:engines=2").split(",")
    os.environ.setdefault("VLLM_CACHE_ROOT", str(arguments.out / "cache"))
    (arguments.out / "cache").mkdir(exist_ok=True)
    made: dict[str, Any] = {}
    for part in parts:
        print(f"--- {part}, {arguments.problems} problems", flush=True)
        command = [sys.executable, "-m", "tests.benchmarks.bench_debate", *sys.argv[1:], "--one", part]
        try:
            subprocess.run(command, check=True, timeout=arguments.limit)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"FAILED {part} {error}", flush=True)  # the others are worth having
            continue
        made[part] = json.loads((arguments.out / "part.json").read_text())
        shown = {key: value for key, value in made[part].items() if key != "over_time"}
        print(f"RESULT {part} {json.dumps(shown)}", flush=True)
        # After every part: what is measured is not lost with the next.
        name = "-".join(part.replace(":", "+") for part in made)[:80]
        (arguments.out / f"{name}.json").write_text(json.dumps({"made": made, "ratios": compare(made)}))
    print(f"RATIOS {json.dumps(compare(made))}")


if __name__ == "__main__":
    main()
