"""Which engine works on what: requests to those that hold their model, models to those that are idle."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from hpcmaf.engines.batching import Waiting
from hpcmaf.engines.vllm_queue import Queue, Room
from hpcmaf.engines.vllm_seat import CHUNK, Seat


class Crew:
    """The engines of a task, over one queue.

    Parameters
    ----------
    send
        Gives an engine requests.
    """

    def __init__(self, seats: Sequence[Seat], queue: Queue, send: Callable[[Seat, list[Waiting]], None]) -> None:
        self.seats = seats
        self.queue = queue
        self._send = send

    @property
    def in_flight(self) -> int:
        """Requests in progress."""
        return sum(len(seat.in_flight) for seat in self.seats)

    def hand_out(self, group: str | None) -> None:
        """Give engines what waits for the model they hold."""
        serving = self._serving(group)
        ready = [seat for seat in serving if seat.ready]
        if not ready or not self.queue.count(group):
            return
        # One engine alone gets all there is: vLLM queues by itself.
        alone = len(self.seats) == 1
        rooms = [Room(seat.number, sys.maxsize if alone else seat.size, len(seat.in_flight)) for seat in ready]
        for number, dealt in self.queue.deal(group, rooms, len(serving)).items():
            self._send(self.seats[number], dealt)

    def occupy(self) -> None:
        """Start engines where something waits that nobody could be handed.

        To be called when every debate waits: a model that is given up too
        soon has to be loaded again.
        """
        for seat in self.seats:
            chosen = self._next_for(seat) if seat.idle else []
            if chosen:
                seat.start(chosen[0])
        self.prepare()

    def prepare(self) -> None:
        """Have the models that come next read while the present ones work."""
        coming = [group for group in self.queue.groups() if not self._serving(group)]
        for seat, group in zip([seat for seat in self.seats if seat.ready], coming, strict=False):
            seat.life.prepare(group)

    def _next_for(self, seat: Seat) -> list[str | None]:
        """Groups whose weights an idle engine should hold, the best first."""
        groups = [group for group in self.queue.groups() if not (seat.running and seat.group == group)]
        alone = [group for group in groups if not self._serving(group)]
        if seat.running:
            # More may still come for the weights it holds, up to what is being
            # made elsewhere; for less it need not change them.
            elsewhere = self.in_flight
            alone = [group for group in alone if self.queue.count(group) >= elsewhere]
        # Nor is another engine's start worth a few requests.
        crowded = [group for group in groups if self._serving(group) and self.queue.count(group) >= CHUNK]
        return [*alone, *crowded]

    def _serving(self, group: str | None) -> list[Seat]:
        return [seat for seat in self.seats if seat.running and seat.group == group]
