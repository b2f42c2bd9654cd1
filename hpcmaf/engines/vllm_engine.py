"""Generation with vLLM: requests stream into a running engine.

The engine steps in a process (or thread) of its own; here are the chats, the
journal, and whoever waits. A request goes to the engine the moment a debate
makes it, and its completion wakes that debate at once, so there is no batch
and no barrier. Adapters of all agents are served by one engine; whole
checkpoints by one engine after the other, each for as long as it has requests.
(Changing weights in a running engine would be faster, and on CPUs silently
goes on with a mixture of old and new.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from hpcmaf.engines.base import Completion, Request, ServedModels
from hpcmaf.engines.batching import Waiting
from hpcmaf.engines.journal import Journal
from hpcmaf.engines.models import ModelPool, pick_device
from hpcmaf.engines.vllm_life import EngineLife, say
from hpcmaf.engines.vllm_messages import Made, Row
from hpcmaf.engines.vllm_options import VllmOptions
from hpcmaf.engines.vllm_record import Record
from hpcmaf.errors import PlatformError

# Requests that travel together; the engine starts on the first of them while
# the others' prompts are still being tokenized.
_CHUNK = 64
# As in the transformers engine: turns of the loop without a new request after
# which every debate counts as waiting.
_QUIET_TURNS = 8
_TICK_SECONDS = 1.0


class VllmEngine:
    """An ``Engine`` on vLLM; nothing is started before something has to be completed.

    Parameters
    ----------
    served
        Base and agents.
    options
        What the profile says of the engine.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    journal
        Where completions are kept as they come; ``None`` keeps none.
    on_batch
        Called with the number of completions that came, and about once a
        second with 0; what it raises ends the engine and reaches everybody.
    environment
        Added to that of the engine's process.
    halvings
        Times that memory ran out in earlier attempts.

    Attributes
    ----------
    context
        Most tokens of a prompt and its answer.
    peak_memory_bytes
        Most GPU memory in use so far, on one GPU.

    Raises
    ------
    PlatformError
        vLLM is not installed.
    """

    def __init__(
        self,
        served: ServedModels,
        options: VllmOptions | None = None,
        *,
        device: str = "auto",
        journal: Journal | None = None,
        on_batch: Callable[[int], None] | None = None,
        environment: Mapping[str, str] | None = None,
        halvings: int = 0,
    ) -> None:
        if find_spec("vllm") is None:
            raise PlatformError(
                "generation.engine: vllm is not installed; pip install 'hpcmaf[vllm]', or choose transformers"
            )
        self.device = pick_device(device)
        # For its tokenizer, limits and stop tokens; it loads no weights here.
        self.pool = ModelPool(served, self.device, 1)
        self.life = EngineLife(self.pool, self.device.type, options or VllmOptions(), environment)
        for _ in range(halvings):
            self.life.options = self.life.options.smaller("out of memory", self.device.type) or self.life.options
        self.record = Record(journal, self._fail)
        self.context = self.pool.context
        self.peak_memory_bytes = 0
        self._on_batch = on_batch
        self._ready = False
        self._launches = 0
        self._current: str | None = None
        self._waiting: dict[str | None, list[Waiting]] = {}
        self._in_flight: dict[int, Waiting] = {}
        self._next_id = 0
        self._failure: BaseException | None = None
        self._sending: asyncio.Task[None] | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def seconds(self) -> float:
        """Time in which there was something to complete, the engine's start and earlier attempts included."""
        return self.record.seconds

    async def complete(self, request: Request) -> Completion:
        """Generate one completion; see ``Engine``.

        A prompt that fills the context leaves no room to answer: its
        completion is empty, with finish reason ``"length"``.
        """
        if self._failure is not None:
            raise self._failure
        known = self.record.find(request)
        if known is not None:
            self._count(1)
            return known
        prompt = self.pool.prompt(request)
        self._loop = asyncio.get_running_loop()
        waiting = Waiting(request, prompt, self._loop.create_future())
        queue = self._waiting.setdefault(self.pool.group(request.model), [])
        queue.append(waiting)
        self.record.run()
        if self._ready and len(queue) >= _CHUNK:
            self._send()
        self._send_soon()
        if self._ticking is None or self._ticking.done():
            self._ticking = self._loop.create_task(self._tick())
        return await waiting.future

    def close(self) -> None:
        """Stop the engine, and write what is not written yet."""
        self._ready = False
        self.life.close()
        self.record.close()

    # --- to the engine -----------------------------------------------------
    def _send_soon(self) -> None:
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._until_quiet())

    async def _until_quiet(self) -> None:
        """Send what comes at once; start an engine, or another, only when every debate waits."""
        quiet, size = 0, -1
        while quiet < _QUIET_TURNS:
            if self._ready:
                self._send()
            await asyncio.sleep(0)
            now = self._next_id + sum(map(len, self._waiting.values()))
            quiet, size = (quiet + 1, now) if now == size else (0, now)
        groups = self._by_demand()
        try:
            # An engine that is not ready will be sent all there is once it is.
            idle = self._ready and not self._in_flight
            if groups and (idle or not self.life.running):
                self._start(groups[0])
        except BaseException as error:
            self._fail(error)

    def _by_demand(self) -> list[str | None]:
        groups = [group for group, queue in self._waiting.items() if queue]
        return sorted(groups, key=lambda group: (len(self._waiting[group]), str(group)), reverse=True)

    def _send(self) -> None:
        """Give the engine what waits for the model it holds."""
        rows = []
        for waiting in self._waiting.pop(self._current, []):
            room = self.context - len(waiting.prompt)
            if waiting.future.done():
                continue
            if room <= 0:
                self._settle(waiting, Completion("", (), len(waiting.prompt), "length"))
                self._count(1)
                continue
            rows.append(self._row(self._next_id, waiting, room))
            self._in_flight[self._next_id] = waiting
            self._next_id += 1
        if rows:
            self.record.run()  # those without room may have been the last
        for start in range(0, len(rows), _CHUNK):
            self.life.send(("add", rows[start : start + _CHUNK]))

    def _row(self, id: int, waiting: Waiting, room: int) -> Row:
        request, sampling = waiting.request, waiting.request.sampling
        return Row(
            id=id,
            prompt=waiting.prompt,
            model=request.model if self.pool.served.tuning == "lora" else None,
            seed=request.seed,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            tokens=0 if request.scored else min(sampling.max_new_tokens, room),
            logprobs=request.logprobs,
        )

    def _start(self, group: str | None) -> None:
        self._current, self._ready = group, False
        self._launches += 1
        launch = self._launches

        def hear(message: tuple[Any, ...]) -> None:
            # The loop is closed when the job has been interrupted.
            with suppress(RuntimeError):
                assert self._loop is not None
                self._loop.call_soon_threadsafe(self._hear, launch, message)

        self.life.start(group, hear)

    # --- from the engine ---------------------------------------------------
    def _hear(self, launch: int, message: tuple[Any, ...]) -> None:
        if launch != self._launches or not self.life.running:
            return  # the last words of an engine that has been replaced
        try:
            if message[0] == "ready":
                self._on_ready(message[1])
            elif message[0] == "done":
                self.peak_memory_bytes = max(self.peak_memory_bytes, message[2])
                for made in message[1]:
                    self._on_made(made)
                self._count(len(message[1]))
            else:
                self._on_failed(*message[1:])
        except BaseException as error:
            self._fail(error)

    def _on_ready(self, facts: dict[str, Any]) -> None:
        self._ready = True
        self.context = min(self.pool.context, facts["context"])
        self.peak_memory_bytes = max(self.peak_memory_bytes, facts["memory"])
        self._send()
        others = self._by_demand()
        if others:
            self.life.prepare(others[0])
        self._send_soon()

    def _on_made(self, made: Made) -> None:
        waiting = self._in_flight.pop(made.id)
        stopped = bool(made.token_ids) and made.token_ids[-1] in self.pool.stop_ids
        completion = Completion(
            text=self.pool.chat.decode(made.token_ids),
            token_ids=made.token_ids,
            prompt_tokens=len(waiting.prompt),
            finish_reason="stop" if stopped else "length",
            logprobs=made.logprobs,
            prompt_logprobs=made.prompt_logprobs,
        )
        self._settle(waiting, completion)

    def _settle(self, waiting: Waiting, completion: Completion) -> None:
        self.record.add(waiting.request, completion)
        if not waiting.future.done():
            waiting.future.set_result(completion)
        if not self._in_flight:
            if any(self._waiting.values()):
                self._send_soon()
            else:
                self.record.pause()

    def _on_failed(self, kind: str, reason: str) -> None:
        was_ready, self._ready = self._ready, False
        say(self.life.failed(kind, reason, was_ready))
        self._waiting.setdefault(self._current, [])[:0] = self._in_flight.values()
        self._in_flight.clear()
        if self._waiting[self._current]:
            self._start(self._current)

    def _fail(self, error: BaseException) -> None:
        """Everybody waiting must hear of it, or the program hangs."""
        self._failure, self._ready = error, False
        self.life.kill()
        for waiting in [*self._in_flight.values(), *(w for queue in self._waiting.values() for w in queue)]:
            if not waiting.future.done():
                waiting.future.set_exception(error)
        self._in_flight.clear()
        self._waiting.clear()

    async def _tick(self) -> None:
        """Let the job be stopped also while an engine starts, or makes long answers only."""
        try:
            while self._in_flight or any(self._waiting.values()):
                self._count(0)
                await asyncio.sleep(_TICK_SECONDS)
        except Exception as error:
            self._fail(error)

    def _count(self, completions: int) -> None:
        if self._on_batch:
            self._on_batch(completions)
