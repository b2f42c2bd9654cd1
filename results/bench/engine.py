"""How long a debate takes: one batch of whatever is ready, against its peers.

    python -m results.bench.engine [--problems 120] [--device cpu]

The packaged micro model with six LoRA adapters, N=3, M=2, with summaries, in
one process on one thread:

- ours: requests of all problems, roles and rounds in one pool;
- phase by phase: the same engine, but round 2 waits for all of round 1;
- by adapter: phase by phase, one adapter at a time, as one does where
  adapters cannot be mixed in a batch;
- one at a time: a prompt per ``generate`` call, as the paper's released code
  does; measured on a few problems, stated per problem.

Prints seconds per problem and the ratio of each peer to ours.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from hpcmaf.debate.methods import Society
from hpcmaf.debate.protocol import Protocol, debate_all
from hpcmaf.engines import Completion, Request, Sampling, ServedModels
from hpcmaf.engines.transformers_engine import TransformersEngine
from hpcmaf.micro import base_path
from hpcmaf.tasks import get_task

AGENTS = [f"{role}-{n}" for role in ("generator", "critic") for n in range(3)]


class Barriers:
    """Passes requests on only when every debate has made its next one.

    Parameters
    ----------
    group
        Requests of different groups go out one group after the other.
    """

    def __init__(self, engine: TransformersEngine, group: Callable[[Request], object]) -> None:
        self.engine = engine
        self.group = group
        self._waiting: list[tuple[Request, asyncio.Future[Completion]]] = []

    async def complete(self, request: Request) -> Completion:
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if len(self._waiting) == 1:
            asyncio.create_task(self._release())
        return await future

    async def _release(self) -> None:
        before = -1
        while len(self._waiting) != before:
            before = len(self._waiting)
            for _ in range(20):
                await asyncio.sleep(0)
        phase, self._waiting = self._waiting, []
        done: list[Completion | None] = [None] * len(phase)
        for group in sorted({str(self.group(request)) for request, _ in phase}):
            chosen = [i for i, (request, _) in enumerate(phase) if str(self.group(request)) == group]
            made = await asyncio.gather(*(self.engine.complete(phase[i][0]) for i in chosen))
            for i, completion in zip(chosen, made, strict=True):
                done[i] = completion
        for (_, future), completion in zip(phase, done, strict=True):
            future.set_result(completion)


def make_adapters(folder: Path) -> dict[str, str]:
    """Six untrained adapters of the recipe's shape: the cost of serving does not depend on their values."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    for name in AGENTS:
        model = AutoModelForCausalLM.from_pretrained(base_path())
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
        get_peft_model(model, config).save_pretrained(folder / name)
    return {name: str(folder / name) for name in AGENTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    task = get_task("arithmetic")
    problems = task.splits(None, 1, options.problems, 0, None).eval
    protocol = Protocol(
        2, True, task.prompts("compact"), task.answer_form, Sampling(max_new_tokens=80), seed=0, iteration=1
    )
    society = Society.of(3, AGENTS)
    with tempfile.TemporaryDirectory() as folder:
        served = ServedModels(str(base_path()), "lora", make_adapters(Path(folder)), "float32")

        def measure(batch_size: int, count: int, wrap: Callable[[TransformersEngine], object]) -> tuple[float, int]:
            engine = TransformersEngine(served, device=options.device, batch_size=batch_size)
            engine.load(None)

            async def run() -> int:
                front = wrap(engine)
                transcripts = await debate_all(problems[:count], society, protocol, front)
                turns = [turn for t in transcripts for part in (*t.answers, *t.summaries) for turn in part]
                return sum(turn.completion_tokens for turn in turns)

            start = time.perf_counter()
            tokens = asyncio.run(run())
            return (time.perf_counter() - start) / count, tokens // count

        few = max(2, options.problems // 40)
        measure(options.batch_size, few, lambda engine: engine)  # warm-up
        rows = {
            "ours": measure(options.batch_size, options.problems, lambda engine: engine),
            "phase by phase": measure(options.batch_size, options.problems, lambda e: Barriers(e, lambda r: 0)),
            "by adapter": measure(options.batch_size, options.problems, lambda e: Barriers(e, lambda r: r.model)),
            "one at a time": measure(1, few, lambda engine: engine),
        }
    ours = rows["ours"][0]
    print(f"{options.problems} problems, N=3, M=2, six adapters, batch {options.batch_size}, {options.device}")
    for name, (seconds, tokens) in rows.items():
        print(f"{name:15s} {seconds:8.4f} s/problem {tokens / seconds:8.0f} tok/s {seconds / ours:6.2f} x ours")


if __name__ == "__main__":
    main()
