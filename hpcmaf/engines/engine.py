"""What all engines have in common: a journal, a clock, thoughts of limited length, and one failure for all who wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hpcmaf.engines.base import Completion, Request
from hpcmaf.engines.journal import Journal
from hpcmaf.engines.prompts import Prompts
from hpcmaf.seeding import derive_seed

_TICK_SECONDS = 0.4


class BaseEngine:
    """An ``Engine`` that keeps what it makes.

    Parameters
    ----------
    prompts
        How chats become tokens; ``None`` where a server sees to that.
    journal
        Where completions are kept as they come; ``None`` keeps none.
    on_batch
        Called with the number of completions that came, and a few times a
        second with 0; what it raises stops the engine with the next answer.

    Attributes
    ----------
    seconds
        From the first request to the last completion, starts and earlier
        attempts included.
    open
        Requests that are not answered.
    gpus
        GPUs in use.
    """

    gpus = peak_memory_bytes = 0

    def __init__(
        self, prompts: Prompts | None, journal: Journal | None, on_batch: Callable[[int], None] | None
    ) -> None:
        self.prompts: Any = prompts
        self.journal = Journal() if journal is None else journal
        self.seconds = self._written = self._earlier = self.journal.seconds
        self.open, self._began = 0, 0.0
        self._on_batch = on_batch or (lambda _: None)
        self._failure: BaseException | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._unwritten: list[tuple[Request, Completion]] = []

    async def complete(self, request: Request) -> Completion:
        """Generate one completion; see ``Engine``.

        A prompt that fills the context leaves no room to answer: its
        completion is empty, with finish reason ``"length"``. It takes a
        second request where a thought is longer than
        ``sampling.thinking_tokens``: the first stops there, and the other
        begins with that thought and its end. Where there is no need of the
        second one it is counted as completed.
        """
        limit = request.sampling.thinking_tokens
        if not limit or self.prompts is None:
            return await self._complete(request)
        sampling = request.sampling.model_copy(update={"thinking_tokens": 0, "max_new_tokens": limit})
        first = await self._complete(replace(request, sampling=sampling))
        if first.finish_reason != "length" or len(first.token_ids) != limit:
            self.count(1)
            return first
        sampling = sampling.model_copy(update={"max_new_tokens": request.sampling.max_new_tokens - limit})
        begun = (*first.token_ids, *self.prompts.chat.closing(first.text))
        key, seed = f"{request.key}/answer", derive_seed(request.seed, "answer")
        second = await self._complete(replace(request, key=key, seed=seed, sampling=sampling, begun=begun))
        return second if second.token_ids else first  # a full context has no room for more

    async def _complete(self, request: Request) -> Completion:
        if (found := self.journal.find(request)) is not None:
            self.count(1)
            return found
        self.open += 1
        self._began = self._began or time.monotonic()
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.create_task(self._tick())
        try:
            made = await self.answer(request)
            self.check()
            return made
        except Exception as error:
            self._failure = self._failure or error
            raise
        finally:
            self.open -= 1
            self.seconds = self._earlier + time.monotonic() - self._began

    def count(self, completions: int) -> None:
        """Report completions; what that raises is for :meth:`check`, after they are kept."""
        try:
            self._on_batch(completions)
        except Exception as error:
            self._failure = self._failure or error

    def keep(self, requests: Sequence[Request], completions: Sequence[Completion]) -> None:
        """Have completions written to the journal."""
        self._unwritten += zip(requests, completions, strict=True)

    def check(self) -> None:
        """Raise what another request, or the task's end, has stopped the engine with."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Write what is not written yet, and release models and processes."""
        self.write()

    # --- what an engine adds -----------------------------------------------
    async def answer(self, request: Request) -> Completion:
        """Complete a request that no journal has, keep what came, and count it."""
        made = await self.send(request)
        self.keep([request], [made])
        self.count(1)
        return made

    async def send(self, request: Request) -> Completion:
        """Have a server complete a request."""
        raise NotImplementedError

    async def watch(self) -> None:
        """Look at the servers, a few times a second."""

    def note(self) -> str:
        """What there is to say of the work in progress."""
        return ""

    def means(self) -> dict[str, Any]:
        """What there is to say of the whole."""
        return {}

    # --- clock and journal -------------------------------------------------
    async def _tick(self) -> None:
        """A few times a second: let the job be stopped, look at the servers, write what came."""
        try:
            while self.open or self._unwritten:
                self._on_batch(0)
                await self.watch()
                self.write()
                await asyncio.sleep(_TICK_SECONDS)
        except Exception as error:  # the next answer, or the start that is waited for, raises it
            self._failure = self._failure or error

    def write(self) -> None:
        """Write to the journal what is not written yet."""
        entries, self._unwritten = self._unwritten, []
        if entries:
            requests, completions = zip(*entries, strict=True)
            self.journal.append(requests, completions, self.seconds - self._written)
            self._written = self.seconds
