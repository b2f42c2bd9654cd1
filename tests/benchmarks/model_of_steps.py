"""What a debate's schedule can be worth, by a model of an engine's steps: no GPU.

    python -m tests.benchmarks.model_of_steps [--machine fp8] [--problems 500] [--seats 512] [--first 63]

The debates of ``bench_debate`` on one engine whose steps take as long as those
profiled on an H100 (results/bench): matrix products by rows, with the weights'
reading as a floor; attention by the keys and values that are read; adapters'
kernels; and what a prompt's tokens take. ``recorded`` has every step as a recorded
graph, in fp8, and nothing fitted to whole debates but what steps without
adapters are spared: of 500 problems it comes out 5% short with 300 tokens for
every answer, 4% with uneven ones and 2% phase by phase, of 63 up to 4% long. The
others are from before that: a step with prompts takes at least the time in which
the machine can launch its kernels one by one, fitted to an uneven run. Prints
seconds, steps and steps with prompts of several schedules, also of some that know
every length beforehand, which no engine does.
"""

from __future__ import annotations

import argparse
import bisect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmarks.debate_workload import AGENTS, Work

QUESTION = 150
# As a debate's calls are named: round and kind.
STAGES = ("r1/answer", "r2/summary", "r2/answer")


@dataclass(frozen=True)
class Machine:
    """Milliseconds of what a step consists of.

    Attributes
    ----------
    products, floor
        Matrix products of 512 rows, and what reading the weights takes at least.
    read
        Of one token's keys and values.
    prompt
        One prompt token, adapters included.
    constant, rows
        Adapters' kernels, sampling and the rest of a recorded step: whatever
        it holds, and of 512 rows.
    launched
        What a step with prompts takes at least, and how much longer it takes.
    bare
        How much less a step takes in which nobody has an adapter, as those of a phase of summaries.
    """

    products: float
    floor: float
    read: float
    prompt: float
    constant: float
    rows: float = 0.0
    launched: tuple[float, float] = (60.0, 8.0)
    bare: float = 0.0


MACHINES = {
    "recorded": Machine(6.0, 2.8, 28e-6, 18e-3, 3.5, 2.4, (0.0, 3.0), 1.3),
    "fp8": Machine(6.5, 2.6, 22.5e-6, 19.2e-3, 8.1),
    "bfloat16": Machine(10.5, 5.2, 45e-6, 28.7e-3, 7.1),
}


class Call:
    """One request: of which problem, stage and agent, and its tokens."""

    def __init__(self, work: Work, problem: int, stage: int, agent: int) -> None:
        def tokens(stage: int, agent: int) -> int:
            return work.length(f"p{problem}/{STAGES[stage]}/{agent}")

        self.problem, self.stage, self.agent = problem, stage, agent
        self.left = tokens(stage, agent)
        others = sum(tokens(0, other) for other in range(AGENTS) if other != agent)
        own = tokens(0, agent) + tokens(1, agent)
        self.prompt = (QUESTION, 20 + others, 2 * QUESTION + own)[stage]
        self.context = self.prompt
        after = [sum(tokens(later, a) for later in range(max(1, stage), 3)) for a in range(AGENTS)]
        # Tokens until its debate can end.
        self.chain = self.left + max(after) if stage == 0 else sum(tokens(later, agent) for later in range(stage, 3))


def seconds(
    work: Work,
    machine: Machine,
    *,
    seats: int = 512,
    every: int = 8,
    barrier: bool = False,
    together: bool = False,
    order: Callable[[Call], float] = lambda call: 0,
    step_tokens: int = 8192,
    first: int = 0,
) -> tuple[float, int, int]:
    """Seconds of all debates, steps, and steps with prompts.

    With ``together`` a problem's agents wait for all of its summaries.
    """
    waiting = [Call(work, p, 0, a) for p in range(first, first + work.problems) for a in range(AGENTS)]
    waiting.sort(key=order)
    running: list[Call] = []
    reading: list[Call] = []
    later: list[Call] = []
    answered: Counter[tuple[int, int]] = Counter()
    total, steps, mixed = 0.0, 0, 0

    def next_of(call: Call) -> list[Call]:
        after = call.stage + 1
        if call.stage == 1 and not together:
            return [Call(work, call.problem, after, call.agent)]
        answered[call.problem, call.stage] += 1
        whole = after < len(STAGES) and answered[call.problem, call.stage] == AGENTS
        return [Call(work, call.problem, after, agent) for agent in range(AGENTS)] if whole else []

    while waiting or running or reading or later:
        if not (waiting or running or reading):
            waiting, later = sorted(later, key=order), []
        steps += 1
        if not running or steps % every == 0:
            free = seats - len(running) - len(reading)
            reading += waiting[:free]
            del waiting[:free]
        room, prompts = step_tokens - len(running), 0
        begun: list[Call] = []
        while reading and room:
            read = min(room, reading[0].prompt)
            reading[0].prompt -= read
            room, prompts = room - read, prompts + read
            if reading[0].prompt == 0:
                begun.append(reading.pop(0))
        took = max(machine.floor, machine.products * len(running) / 512) + machine.constant
        took += machine.rows * len(running) / 512
        took += machine.read * sum(call.context for call in running) + machine.prompt * prompts
        if all(call.stage == 1 for call in (*running, *begun)):
            took -= machine.bare
        if prompts:
            mixed += 1
            took = max(took, machine.launched[0]) + machine.launched[1]
        total += took / 1000
        for call in running:
            call.left, call.context = call.left - 1, call.context + 1
        for call in [call for call in running if call.left <= 0]:
            for new in next_of(call):
                later.append(new) if barrier else bisect.insort(waiting, new, key=order)
        running = [call for call in running if call.left > 0] + begun
    return total, steps, mixed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", choices=list(MACHINES), default="recorded")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="number of the first problem, on which lengths depend")
    parser.add_argument("--seats", type=int, default=512)
    parser.add_argument("--every", type=int, default=8, help="steps from one with new prompts to the next")
    options = parser.parse_args()
    machine = MACHINES[options.machine]
    even, uneven = Work(options.problems), Work(options.problems, None)
    ways = {
        "300 tokens each, prompts in every step": (even, {"every": 1}),
        "300 tokens each": (even, {}),
        "uneven, prompts in every step": (uneven, {"every": 1}),
        "uneven": (uneven, {}),
        "uneven, waiting for a problem's summaries": (uneven, {"together": True}),
        "uneven, phase by phase, prompts in every step": (uneven, {"every": 1, "barrier": True}),
        "uneven, phase by phase": (uneven, {"barrier": True}),
        "uneven, those furthest on first": (uneven, {"order": lambda call: -call.stage}),
        "uneven, longest chain first (knowing lengths)": (uneven, {"order": lambda call: -call.chain}),
    }
    for name, (work, settings) in ways.items():
        settings = {"seats": options.seats, "every": options.every, "first": options.first} | settings
        total, steps, mixed = seconds(work, machine, **settings)  # type: ignore[arg-type]
        print(f"{name:48}{total:7.1f} s  {steps:6,} steps, {mixed:5,} of them with prompts", flush=True)


if __name__ == "__main__":
    main()
