"""Which waiting requests make the next batch of a static engine."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass

from hpcmaf.engines.base import Completion, Request

# Prompts within so many tokens of each other count as equally long, so that
# those for one adapter can travel together.
LENGTH_STEP = 32


@dataclass(eq=False, slots=True)
class Waiting:
    """A request with its prompt's tokens and whoever awaits it."""

    request: Request
    prompt: list[int]
    future: asyncio.Future[Completion]


def take_batch(queue: list[Waiting], batch_size: int) -> list[Waiting]:
    """Take the next batch out of a queue: longest prompts first, one adapter where that fills it.

    Every further adapter in a batch costs its own small matrix products in
    every layer, so a model with at least half a batch waiting gets a batch to
    itself. The rest travels mixed: waiting for company would bring back the
    barrier between rounds. What is taken does not depend on the queue's order.
    """
    by_model: dict[str, list[Waiting]] = defaultdict(list)
    for waiting in queue:
        by_model[waiting.request.model or ""].append(waiting)
    alone = [crowd for crowd in by_model.values() if 2 * len(crowd) >= batch_size]
    chosen = max(alone, key=_longest) if alone else queue
    # Keys are unique, so the order does not depend on who came first.
    batch = sorted(chosen, key=_by_adapter_within_length)[:batch_size]
    taken = set(map(id, batch))
    queue[:] = [waiting for waiting in queue if id(waiting) not in taken]
    return batch


def _longest(crowd: list[Waiting]) -> tuple[int, str]:
    return max(len(waiting.prompt) for waiting in crowd), crowd[0].request.model or ""


def _by_adapter_within_length(waiting: Waiting) -> tuple[int, str, int, str]:
    length, request = len(waiting.prompt), waiting.request
    return (-(length // LENGTH_STEP), request.model or "", -length, request.key)
