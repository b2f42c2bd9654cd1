"""Debates of an 8B society on GPUs: requests that move on by themselves, against the ways one would try first.

    python -m results.bench.debate --out FOLDER                            # loop, peer, ours: about 9 minutes
    python -m results.bench.debate --out FOLDER --parts peer,ours:FP8
    python -m results.bench.debate --out FOLDER --parts ours:FP8,ours:FP8  # the second start is warm
    python -m results.bench.debate --out FOLDER --parts two                # on two GPUs

N=3, M=2 with summaries and six rank-16 adapters on every linear layer of a
model of Llama-3-8B's shape with random weights: 4,500 calls at 500 problems.
Random weights never end a text, so each call's length is set beforehand: 300
tokens, the same for all contestants.

The parts of a command run one after the other on the same GPUs, each in a
process of its own, so nothing is left in memory for the next. Starting is
reported apart, by what it was spent on; all share one cache of what is
compiled, and a FOLDER without one starts cold. A part that fails leaves the
others be. What earlier commands with the same FOLDER have measured is compared
too: delete FOLDER/debate.json on another card.

loop      one prompt at a time through transformers; a call of each kind is timed
peer      vLLM with all adapters, phase by phase: round 1, summaries, round 2
ours      the engine of this project, a server; with KEY=VALUE;... of its options
          or of vLLM's. FP8 stands for weights and cache in fp8
two       ours on one GPU, then with two servers on two
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hpcmaf.engines.base import Request, Sampling, ServedModels
from results.bench.debate_contestants import PhaseByPhase, one_at_a_time
from results.bench.debate_workload import NAMES, RANK, SHAPE, TINY, Work, make_adapters, make_model, run_debates

CONTEXT = 8192
FP8 = 'kv_cache_dtype="fp8";quantization="fp8"'


def our_engine(model: Path, adapters: dict[str, str], more: dict[str, Any], log: Path | None = None) -> Any:
    """Our engine, with options or vLLM's changed."""
    from hpcmaf.engines.options import AdapterShape, VllmOptions
    from hpcmaf.engines.vllm import VllmEngine
    from hpcmaf.jobs.serving import linear_modules

    own = VllmOptions.model_fields
    options = {"max_model_len": CONTEXT} | {key: value for key, value in more.items() if key in own}
    arguments = {"load_format": "dummy"} | {key: value for key, value in more.items() if key not in own}
    served = ServedModels(str(model), "lora", adapters)
    room = AdapterShape(len(adapters), RANK, linear_modules(served))
    return VllmEngine(served, VllmOptions(**options, vllm_args=arguments), log=log, room=room)


async def warm(engine: Any) -> float:
    """Start it, with short calls of everybody's; returns the seconds of that."""
    began = time.monotonic()
    sampling = Sampling(top_p=1.0, max_new_tokens=8)
    requests = [
        Request(f"{i}", ({"role": "user", "content": f"w{7 + i}"},), [None, *NAMES][i % 7], 0, sampling)
        for i in range(200)
    ]
    await asyncio.gather(*map(engine.complete, requests))
    return time.monotonic() - began


async def ours(model: Path, adapters: dict[str, str], more: dict[str, Any], work: Work, log: Path) -> dict[str, Any]:
    engine = our_engine(model, adapters, more, log)
    try:
        return {"start": await warm(engine), **await run_debates(work, engine), "gpus": engine.gpus, **engine.averages()}
    finally:
        engine.close()


def peer(model: Path, adapters: dict[str, str], work: Work) -> dict[str, Any]:
    began = time.monotonic()
    values = {"max_model_len": CONTEXT, "max_num_seqs": 512, "gpu_memory_utilization": 0.9, "load_format": "dummy"}
    contestant = PhaseByPhase(model, adapters, values | {"seed": 0}, work.problems * 3)
    started = time.monotonic() - began
    return {"start": started, **asyncio.run(run_debates(work, contestant)), "phases": contestant.spent}


def run_part(part: str, arguments: Any) -> dict[str, Any]:
    """One contestant, in this process."""
    shape = TINY if arguments.tiny else SHAPE
    folder = arguments.out / "models"
    model = folder / "base"
    make_model(model, shape)
    adapters = make_adapters(folder / "adapters", shape)
    name, _, extra = part.replace("FP8", FP8).partition(":")
    more = {key: json.loads(value) for key, value in (pair.split("=", 1) for pair in extra.split(";") if pair)}
    work = Work(arguments.problems, 20 if arguments.tiny else 300, arguments.top_p, more.pop("seeded", True))
    if name == "loop":
        return one_at_a_time(model, work)
    if name == "peer":
        return peer(model, adapters, work)
    return asyncio.run(ours(model, adapters, more, work, arguments.out / "server.log"))


def compare(made: dict[str, Any]) -> dict[str, float]:
    """The ratios that matter, of what this command has measured."""
    ratios = {}
    for part, other in ((p, o) for p in made for o in made if p.startswith("ours") and o.split(":")[0] != "ours"):
        ratios[f"{part} in parts of {other}"] = made[part]["seconds"] / made[other]["seconds"]
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
    os.environ.setdefault("VLLM_CACHE_ROOT", str(arguments.out / "cache"))
    (arguments.out / "cache").mkdir(exist_ok=True)
    before = arguments.out / "debate.json"
    made: dict[str, Any] = json.loads(before.read_text())["made"] if before.exists() else {}
    for part in arguments.parts.replace("two", "ours,ours:engines=2").split(","):
        print(f"--- {part}, {arguments.problems} problems", flush=True)
        command = [sys.executable, "-m", "results.bench.debate", *sys.argv[1:], "--one", part]
        try:
            subprocess.run(command, check=True, timeout=arguments.limit)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"FAILED {part} {error}", flush=True)  # the others are worth having
            continue
        name = part if part not in made else f"{part} again"
        made[name] = json.loads((arguments.out / "part.json").read_text())
        print(f"RESULT {name} {json.dumps(made[name])}", flush=True)
        # After every part: what is measured is not lost with the next.
        before.write_text(json.dumps({"made": made, "ratios": compare(made)}))
    print(f"RATIOS {json.dumps(compare(made))}")


if __name__ == "__main__":
    main()
