"""A streaming engine's journal: completions written as they come, and the time they took."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from hpcmaf.engines.base import Completion, Request
from hpcmaf.engines.journal import Journal

_SECONDS = 0.3


class Record:
    """Writes completions a few times a second, in a thread: a disk must not hold up the debates.

    Parameters
    ----------
    journal
        ``None`` keeps nothing but the time.
    on_error
        Called with what the disk refused.

    Attributes
    ----------
    seconds
        Time in which there was something to complete, that of earlier
        attempts included.
    """

    def __init__(self, journal: Journal | None, on_error: Callable[[BaseException], None]) -> None:
        self.journal = journal
        self.seconds = self._written = journal.seconds if journal is not None else 0.0
        self._on_error = on_error
        self._entries: list[tuple[Request, Completion]] = []
        self._adding, self._writing = threading.Lock(), threading.Lock()
        self._task: asyncio.Task[None] | None = None
        self._mark: float | None = None

    def find(self, request: Request) -> Completion | None:
        """The completion of a request, if an earlier attempt made it."""
        return self.journal.find(request) if self.journal is not None else None

    def run(self) -> None:
        """Count time from now on, if it is not counted yet."""
        if self._mark is None:
            self._mark = time.monotonic()

    def pause(self) -> None:
        """Count no time until there is something to complete again."""
        self._count()
        self._mark = None

    def add(self, request: Request, completion: Completion) -> None:
        """Have a completion written soon."""
        if self.journal is None:
            return
        with self._adding:
            self._entries.append((request, completion))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._write_often())

    def close(self) -> None:
        """Write what is left."""
        self.pause()
        self._write()
        if self.journal is not None:
            self.journal.close()

    def _count(self) -> None:
        if self._mark is not None:
            now = time.monotonic()
            self.seconds, self._mark = self.seconds + now - self._mark, now

    def _write(self) -> None:
        # Taken here, in the thread: one that never comes to run, because the
        # job is interrupted, leaves them to ``close``.
        with self._writing:
            with self._adding:
                entries, self._entries = self._entries, []
            if entries and self.journal is not None:
                requests, completions = zip(*entries, strict=True)
                until = self.seconds
                self.journal.append(requests, completions, until - self._written)
                self._written = until

    async def _write_often(self) -> None:
        try:
            while self._entries:
                await asyncio.sleep(_SECONDS)
                self._count()
                await asyncio.to_thread(self._write)
        except OSError as error:
            self._on_error(error)
