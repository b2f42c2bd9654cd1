"""vLLM's scheduler with a model that only pretends: every token follows from its request and place alone."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hpcmaf.engines.vllm_messages import Row
from hpcmaf.engines.vllm_options import EngineSpec, VllmOptions
from hpcmaf.micro import base_path

STOP = 7
# Tokens that the micro base knows, the one that ends an answer among them.
TOKENS = range(3, 40)


def plain_engine(cache: Path, seats: int, gb: float = 0.5, **arguments: Any) -> Any:
    """An engine whose steps are vLLM's own."""
    from hpcmaf.engines import vllm_server

    class Plain(vllm_server.Engine):
        def _shorten_steps(self) -> None:
            pass

    options = VllmOptions(max_num_seqs=seats, kv_cache_gb=gb, engine_process="job", arguments=arguments)
    return Plain(EngineSpec(str(base_path()), None, False, "float32", "cpu", {}, (), (STOP,), options, str(cache)))


class Pretended:
    """Stands in for what runs the model, and writes down what the scheduler asks of it.

    Parameters
    ----------
    tokens
        Those that it draws from.

    Attributes
    ----------
    asked
        What every step was to compute, by request.
    given
        Tokens so far.
    """

    def __init__(self, scheduler: Any, tokens: Sequence[int] = TOKENS) -> None:
        self.scheduler, self.tokens = scheduler, tokens
        self.asked: list[Any] = []
        self.preempted = self.given = 0

    def execute_model(self, scheduled: Any, non_block: bool = False) -> Any:
        """In vLLM's own place: the step's tokens, at once."""
        made = self.made(scheduled)
        return SimpleNamespace(result=lambda: made)

    def made(self, scheduled: Any) -> Any:
        """Tokens of a step that was just scheduled."""
        from vllm.v1.outputs import ModelRunnerOutput

        tokens = []
        for name in scheduled.num_scheduled_tokens:
            request = self.scheduler.requests[name]
            place = 1009 * int(short(name)) + 31 * request.num_computed_tokens
            tokens.append([] if request.is_prefill_chunk else [self.tokens[place * place // 7 % len(self.tokens)]])
        self.given += sum(map(len, tokens))
        names = list(scheduled.num_scheduled_tokens)
        index = {name: number for number, name in enumerate(names)}
        return ModelRunnerOutput(req_ids=names, req_id_to_index=index, sampled_token_ids=tokens)

    def write_down(self, scheduled: Any) -> None:
        """What a step is to compute; of blocks how many, as their numbers depend on what was before."""
        old, new = scheduled.scheduled_cached_reqs, scheduled.scheduled_new_reqs
        self.preempted += len(scheduled.preempted_req_ids or ())
        self.asked.append(
            (
                [(short(name), count) for name, count in scheduled.num_scheduled_tokens.items()],
                list(map(short, old.req_ids)),
                [ids and len(ids[0]) for ids in old.new_block_ids],
                old.num_computed_tokens,
                old.num_output_tokens,
                sorted(map(short, scheduled.finished_req_ids)),
                sorted(map(short, scheduled.preempted_req_ids or ())),
                [(short(one.req_id), one.num_computed_tokens, len(one.block_ids[0])) for one in new],
            )
        )


def short(name: str) -> str:
    """A request's name without what vLLM puts behind it, which differs from run to run."""
    return name.partition("-")[0]


def rows(count: int, seed: int = 0) -> list[Row]:
    """Requests of all kinds: beginnings in common, short and long answers, some with log-likelihoods."""
    draw = random.Random(seed)
    common = [draw.choice(TOKENS) for _ in range(90)]
    return [
        Row(
            id=number,
            prompt=common[: draw.randrange(90)] + [draw.choice(TOKENS) for _ in range(draw.randrange(3, 90))],
            model=None,
            seed=number,
            temperature=1.0,
            top_p=1.0,
            tokens=draw.randrange(1, 150),
            logprobs=number % 9 == 0,
        )
        for number in range(count)
    ]


def hold(engine: Any, work: Sequence[Row], ahead: int) -> tuple[Pretended, list[Any]]:
    """Have all requests answered, new ones every few steps.

    Parameters
    ----------
    ahead
        Steps that are scheduled before the tokens of the first are known: 2
        is what vLLM does on a GPU.
    """
    core = engine.engine.engine_core.engine_core
    scheduler = core.scheduler
    model, draw, waiting = Pretended(scheduler), random.Random(1), deque(work)
    flying: deque[Any] = deque()
    answers: list[Any] = []
    step = 0
    while waiting or scheduler.has_requests():
        step += 1
        if step % 5 == 1:
            for _ in range(min(len(waiting), draw.randrange(1, 9))):
                engine.add(waiting.popleft())
        while len(flying) < ahead and scheduler.has_requests():
            scheduled = scheduler.schedule()
            if not scheduled.total_num_scheduled_tokens:
                break
            model.write_down(scheduled)
            flying.append((scheduled, model.made(scheduled)))
        if not flying:
            continue
        for messages in scheduler.update_from_output(*flying.popleft()).values():
            for output in engine.engine.output_processor.process_outputs(messages.outputs).request_outputs:
                made = output.outputs[0]
                answers.append(
                    (step, short(output.request_id), tuple(made.token_ids), made.finish_reason,
                     made.stop_reason, output.num_cached_tokens)
                )  # fmt: skip
    return model, answers
