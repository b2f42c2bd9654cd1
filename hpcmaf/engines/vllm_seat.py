"""One of a task's engines: which model it serves, and what it is at work on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from hpcmaf.engines.batching import Waiting
from hpcmaf.engines.vllm_life import EngineLife
from hpcmaf.engines.vllm_messages import Row

# Requests that travel together; an engine starts on the first of them while
# the others are still being written.
CHUNK = 64

Heard = Callable[["Seat", tuple[Any, ...]], None]


class Seat:
    """An engine as the job sees it.

    Parameters
    ----------
    life
        Starts and ends its process.
    on_message
        Called in the loop's thread with each message of the engine it has now.

    Attributes
    ----------
    group
        Whose weights it holds.
    ready
        Whether it takes requests.
    in_flight
        Requests in progress, by the number they were sent under.
    loop
        Of whoever waits now; an engine may outlive one.
    context
        Most tokens of a prompt and its answer; known once it is ready.
    """

    def __init__(self, number: int, life: EngineLife, on_message: Heard) -> None:
        self.number = number
        self.life = life
        self.group: str | None = None
        self.ready = False
        self.in_flight: dict[int, Waiting] = {}
        self.context = life.pool.context
        self.launches = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self._on_message = on_message

    @property
    def running(self) -> bool:
        """Whether it has an engine, be it still starting."""
        return self.life.running

    @property
    def idle(self) -> bool:
        """Whether its engine has nothing to do, or there is none."""
        return not self.running or (self.ready and not self.in_flight)

    @property
    def size(self) -> int:
        """Requests in one step."""
        return self.life.options.seats(self.life.device)

    def start(self, group: str | None) -> None:
        """Start an engine with a group's weights, in place of the one there is."""
        self.group, self.ready = group, False
        self.launches += 1
        launch = self.launches

        def receive(message: tuple[Any, ...]) -> None:
            # An engine that has been replaced has nothing more to say.
            if launch == self.launches and self.running:
                self._on_message(self, message)

        def hear(message: tuple[Any, ...]) -> None:
            # The loop is closed when the job has been interrupted.
            with suppress(RuntimeError):
                assert self.loop is not None
                self.loop.call_soon_threadsafe(receive, message)

        self.life.start(group, hear)

    def on_ready(self, context: int) -> None:
        """Take requests from now on."""
        self.ready, self.context = True, min(self.life.pool.context, context)

    def send(self, rows: Sequence[Row]) -> None:
        """Give the engine requests, which are in ``in_flight`` already."""
        for start in range(0, len(rows), CHUNK):
            self.life.send(("add", rows[start : start + CHUNK]))

    def give_up(self) -> list[Waiting]:
        """Take no more requests; returns those that nobody is at work on now."""
        self.ready = False
        left = list(self.in_flight.values())
        self.in_flight.clear()
        return left
