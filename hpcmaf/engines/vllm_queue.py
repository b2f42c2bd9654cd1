"""What waits for an engine, and which engine gets it: several of them share one queue.

An engine that holds everything there is would finish long after its
neighbours, and one that holds too little runs dry. So each gets what fills its
steps and a little to go on with, never more than its share of what is left,
and the rest waits for whoever is first done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hpcmaf.engines.base import Request
from hpcmaf.engines.batching import Waiting

# What an engine of several holds beyond a full step, at the least: so that it
# never waits for the job's process.
_AHEAD = 64


@dataclass(slots=True)
class Room:
    """An engine that takes requests of a group.

    Attributes
    ----------
    seats
        Requests of one of its steps.
    held
        Requests it has in progress.
    """

    engine: int
    seats: int
    held: int


class Queue:
    """Requests by group, in the order in which they came."""

    def __init__(self) -> None:
        self._groups: dict[str | None, list[Waiting]] = {}
        self._homes: dict[tuple[str | None, str], int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def __iter__(self) -> Iterator[Waiting]:
        return (waiting for queue in self._groups.values() for waiting in queue)

    def add(self, group: str | None, waiting: Waiting) -> None:
        """Put a request behind the others of its group."""
        self._groups.setdefault(group, []).append(waiting)

    def put_back(self, group: str | None, waiting: Sequence[Waiting]) -> None:
        """Put requests of an engine that failed before the others of their group."""
        if waiting:
            self._groups.setdefault(group, [])[:0] = waiting

    def clear(self) -> None:
        """Forget all requests."""
        self._groups.clear()

    def count(self, group: str | None) -> int:
        """Requests of a group."""
        return len(self._groups.get(group, ()))

    def groups(self) -> list[str | None]:
        """Groups with requests, the one that has waited longest first.

        A debate's earlier turns are asked for before its later ones, so this
        is the order of fewest loads: a group is not begun before those it
        depends on are done.
        """
        return list(self._groups)

    def deal(self, group: str | None, rooms: Sequence[Room], engines: int) -> dict[int, list[Waiting]]:
        """Take what the engines of a group shall have now.

        Parameters
        ----------
        rooms
            Engines that are ready; ``held`` is changed.
        engines
            How many serve the group, those that are still starting included.

        Returns
        -------
        dict
            Engine to requests.
        """
        queue = self._groups.get(group, [])
        dealt: dict[int, list[Waiting]] = {room.engine: [] for room in rooms}
        share = -(-(len(queue) + sum(room.held for room in rooms)) // max(1, engines))
        # Those whose problem one of the engines with room has read; then whoever is first.
        for at_home in (True, False):
            left = []
            for place, waiting in enumerate(queue):
                # A second step's worth lets it choose whose turn it is.
                open_ = [room for room in rooms if room.held < min(share, room.seats + max(_AHEAD, room.seats))]
                if not open_:
                    left += queue[place:]
                    break
                room = self._choose((group, waiting.request.key.partition("/")[0]), open_, at_home)
                if room is None:
                    left.append(waiting)
                    continue
                room.held += 1
                dealt[room.engine].append(waiting)
            queue = left
        if queue:
            self._groups[group] = queue
        else:
            self._groups.pop(group, None)
        return dealt

    def _choose(self, problem: tuple[str | None, str], rooms: Sequence[Room], at_home: bool) -> Room | None:
        """The engine that knows the problem, while it is not much busier than the least busy one."""
        idlest = min(rooms, key=lambda room: (room.held / room.seats, room.engine))
        known = self._homes.get(problem)
        home = next((room for room in rooms if room.engine == known), None)
        if home is None and known is not None and at_home:
            return None
        slack = max(_AHEAD // 8, idlest.seats // 4)
        chosen = home if home is not None and home.held - idlest.held <= slack else idlest
        self._homes[problem] = chosen.engine
        return chosen


def certain(request: Request, prompt: list[int]) -> tuple[Any, ...] | None:
    """What a completion depends on that leaves nothing to chance; ``None`` if it is drawn.

    Agents who read the same, such as copies of the base in round 1 or critics
    whose opponents all said one thing, need be answered only once.
    """
    if request.sampling.temperature > 0 and not request.scored:
        return None
    return request.model, request.scored, request.logprobs, request.sampling.max_new_tokens, tuple(prompt)
