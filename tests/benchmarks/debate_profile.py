"""What an engine's steps wait for: the GPU, or the Python between its kernels.

    python -m tests.benchmarks.debate_profile --out FOLDER [--options 'quantization="fp8";max_num_seqs=1024'] [--uneven]

The debates of ``bench_debate`` on one engine in this process, so that its
parts can be timed: the steps from ``--first`` on, ``--steps`` of them without a
profiler, then as many with PyTorch's. Prints milliseconds a step, in the
order in which a step goes through them. vLLM prepares a step while the GPU is at
the one before, so the GPU waits for Python wherever ``waiting for the GPU`` is
nearly nothing. From the profiler: time with a kernel, and the kernels that took
most of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_debate import start_ours, warm
from tests.benchmarks.debate_workload import SHAPE, TINY, Work, hold, make_adapters, make_model

# What to time of vLLM's engine: a path from it, and a name for what the last of it does.
PARTS = {
    "engine_core.engine_core.scheduler.schedule": "choosing what the step computes",
    "engine_core.engine_core.model_executor.execute_model": "launching the model",
    "engine_core.engine_core.model_executor.sample_tokens": "launching the draw",
    "engine_core.engine_core.scheduler.update_from_output": "taking tokens in",
    "output_processor.process_outputs": "looking for finished answers",
}


GAPS = [(20, "under 20 us"), (200, "to 200 us"), (2000, "to 2 ms"), (1e12, "longer")]
# Steps with fewer requests are not those to look at.
FEW = 16


class Steps:
    """Times the steps of the next engine that is started in this process."""

    def __init__(self, first: int, count: int) -> None:
        from hpcmaf.engines.vllm_server import Engine

        self.first, self.count, self.at = first, count, 0
        self.spent: Counter[str] = Counter()
        self.found: dict[str, Any] = {}
        self._profiler: Any = None
        self._began = 0.0
        plain = Engine.step

        def step(engine: Any) -> Any:
            self.before(engine)
            return plain(engine)

        Engine.step = step  # type: ignore[method-assign]

    def before(self, engine: Any) -> None:
        """Called before each step."""
        core = engine.engine
        running = len(core.engine_core.engine_core.scheduler.running)
        if running < FEW:
            return
        self.at += 1
        if self.at == self.first:
            self._time(core)
            self.spent.clear()
            self._began = time.perf_counter()
        elif self.at == self.first + self.count:
            whole = time.perf_counter() - self._began
            self.spent["the rest"] = whole - sum(self.spent.values())
            each = {name: round(1000 * spent / self.count, 3) for name, spent in self.spent.items()}
            self.found["requests"] = running
            self.found["ms a step"] = {"whole": round(1000 * whole / self.count, 3), **each}
            self._profile()
        elif self.at == self.first + 2 * self.count:
            self._read()

    def _time(self, engine: Any) -> None:
        for path, name in PARTS.items():
            *owners, last = path.split(".")
            owner = engine
            for part in owners:
                owner = getattr(owner, part)
            setattr(owner, last, self._timed(getattr(owner, last), name))
        try:
            from vllm.v1.executor.uniproc_executor import AsyncOutputFuture
        except ImportError:  # an older or newer vLLM
            return
        AsyncOutputFuture.result = self._timed(AsyncOutputFuture.result, "waiting for the GPU")

    def _timed(self, plain: Any, name: str) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return plain(*args, **kwargs)
            finally:
                self.spent[name] += time.perf_counter() - began

        return timed

    def _profile(self) -> None:
        import torch
        from torch.profiler import ProfilerActivity, profile

        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self._profiler = profile(activities=[ProfilerActivity.CUDA])
            self._profiler.__enter__()
            self._began = time.perf_counter()

    def _read(self) -> None:
        import torch

        if self._profiler is None:
            return
        torch.cuda.synchronize()
        whole = 1e6 * (time.perf_counter() - self._began)
        self._profiler.__exit__(None, None, None)
        events = [event for event in self._profiler.events() if event.device_type.name == "CUDA"]
        spans, busy, end = sorted((e.time_range.start, e.time_range.end) for e in events), 0.0, 0.0
        gaps: Counter[str] = Counter()
        for begin, finish in spans:
            if end and begin > end:
                size = next(name for limit, name in GAPS if begin - end < limit)
                gaps[size] += begin - end
            busy += max(0.0, finish - max(begin, end))
            end = max(end, finish)
        kernels: Counter[str] = Counter()
        for event in events:
            kernels[event.name[:70]] += event.time_range.end - event.time_range.start
        self.found["profiled"] = {
            "ms a step": round(whole / self.count / 1000, 3),
            "with a kernel": round(busy / self.count / 1000, 3),
            "kernels": len(events) // self.count,
            "gaps, ms a step": {name: round(gap / self.count / 1000, 3) for name, gap in gaps.items()},
            "longest": {name: round(us / self.count / 1000, 3) for name, us in kernels.most_common(14)},
        }


async def run(options: argparse.Namespace, work: Work, steps: Steps) -> dict[str, Any]:
    """The debates, with some of their steps timed."""
    shape = TINY if options.tiny else SHAPE
    model = options.out / "models" / "base"
    make_model(model, shape)
    adapters = make_adapters(options.out / "models" / "adapters", shape)
    more = {key: json.loads(value) for key, value in (p.split("=", 1) for p in options.options.split(";") if p)}
    engine = start_ours(model, adapters, {"engine_process": "job", **more})
    try:
        await warm(engine)
        steps.at = 0  # those that only warmed it up
        return await hold(work, engine)
    finally:
        engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("/tmp/debate_profile"))
    parser.add_argument("--options", default="", help="KEY=VALUE;... of our options, or of vLLM's arguments")
    parser.add_argument("--problems", type=int, default=350)
    parser.add_argument("--first", type=int, default=350)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--uneven", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a small shape and short answers, to try the script")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    steps = Steps(options.first, options.steps)
    length = None if options.uneven else 40 if options.tiny else 300
    held = asyncio.run(run(options, Work(options.problems, length, shorter=8 if options.tiny else 1), steps))
    print(json.dumps({**steps.found, "debates": held}), flush=True)


if __name__ == "__main__":
    main()
