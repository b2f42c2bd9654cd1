"""What a step costs in Python for every token: vLLM's own way, and with what hpcmaf spares it.

    python -m tests.benchmarks.bench_steps [--requests 1024] [--steps 200]

To be run where vLLM is importable; no GPU is needed, as the model only
pretends: tokens come at once, so that all time is the engine's own. First
answers of one length, so that nothing begins or ends, then uneven ones, each of
which makes room for the next.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from hpcmaf.engines.vllm_child import environment
from hpcmaf.engines.vllm_messages import Row
from hpcmaf.engines.vllm_steps import BriefSteps
from tests.vllm.pretending import STOP, TOKENS, Pretended, plain_engine

_WARM = 5


def row(number: int, uneven: bool) -> Row:
    draw = random.Random(number)
    prompt = [draw.choice(TOKENS[5:]) for _ in range(draw.randrange(20, 60))]
    tokens = draw.randrange(20, 100) if uneven else 300
    return Row(number, prompt, None, number, 1.0, 1.0, tokens, False)


def microseconds(engine: Any, model: Pretended, requests: int, steps: int, uneven: bool) -> float:
    """Of a token, over so many steps with all places taken."""
    began, before, number = 0.0, 0, requests
    engine.take([row(n, uneven) for n in range(requests)])
    for step in range(-_WARM, steps):
        if step == 0:
            began, before = time.perf_counter(), model.given
        made = engine.step()
        if uneven and made:
            engine.take([row(number + n, uneven) for n in range(len(made))])
            number += len(made)
    spent = time.perf_counter() - began
    scheduler = engine.engine.engine_core.engine_core.scheduler
    # Nothing of these may be left beside the next: by vLLM's own names for them.
    engine.engine.abort_request(list(scheduler.requests), internal=True)
    assert not scheduler.requests
    return 1e6 * spent / (model.given - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    os.environ.update(environment())
    with tempfile.TemporaryDirectory() as folder:
        engine = plain_engine(Path(folder), options.requests, gb=4, max_num_batched_tokens=65536)
        core = engine.engine.engine_core.engine_core
        model = Pretended(core.scheduler, TOKENS[STOP:])
        core.model_executor.execute_model = model.execute_model
        engine.begin()
        ways = {"vLLM's own way": lambda: None, "with less": lambda: BriefSteps(core.scheduler)}
        found: dict[str, list[float]] = {}
        for name, begin in ways.items():
            begin()
            spent = partial(microseconds, engine, model, options.requests, options.steps)
            found[name] = [spent(uneven=False), spent(uneven=True)]
        for name, (even, uneven) in found.items():
            print(f"{name:16} {even:6.2f} us a token, {uneven:6.2f} where answers end and begin")
        plain, less = found.values()
        print(f"{plain[0] / less[0]:.1f} and {plain[1] / less[1]:.1f} times less")


if __name__ == "__main__":
    main()
