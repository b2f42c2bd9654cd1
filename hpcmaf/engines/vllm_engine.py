"""Generation with vLLM: requests stream into running engines.

An engine steps in a process (or thread) of its own; here are the chats, the
journal, and whoever waits. A request goes to an engine the moment a debate
makes it, and its completion wakes that debate at once, so there is no batch
and no barrier. Adapters of all agents are served by one engine, or by as many
alike as there are GPUs, over one queue; whole checkpoints by one engine after
the other, each for as long as it has requests. (Changing weights in a running
engine would be faster, and on CPUs silently goes on with both old and new.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from hpcmaf.engines.base import Completion, Request, ServedModels
from hpcmaf.engines.batching import Waiting
from hpcmaf.engines.journal import Journal
from hpcmaf.engines.models import ModelPool, pick_device
from hpcmaf.engines.vllm_crew import Crew
from hpcmaf.engines.vllm_devices import environments
from hpcmaf.engines.vllm_life import EngineLife, say
from hpcmaf.engines.vllm_messages import Made, Row
from hpcmaf.engines.vllm_options import VllmOptions
from hpcmaf.engines.vllm_queue import Queue, certain
from hpcmaf.engines.vllm_record import Record
from hpcmaf.engines.vllm_seat import CHUNK, Seat
from hpcmaf.errors import PlatformError

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
        What the profile says of the engines.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    journal
        Where completions are kept as they come; ``None`` keeps none.
    on_batch
        Called with the number of completions that came, and about once a
        second with 0; what it raises ends the engines and reaches everybody.
    environment
        Added to that of the engines' processes.
    halvings
        Times that memory ran out in earlier attempts.

    Attributes
    ----------
    seats
        The engines.
    gpus
        GPUs that they use together.
    peak_memory_bytes
        Most GPU memory in use so far, on one GPU.
    weights_bytes
        Memory of weights and adapters on one GPU, as vLLM counts it.
    reused_tokens
        Prompt tokens that the prefix cache saved computing.

    Raises
    ------
    PlatformError
        vLLM is not installed, or there are fewer GPUs than the engines need.
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
        options = options or VllmOptions()
        self.gpus = options.engines * options.tensor_parallel
        for _ in range(halvings):
            options = options.smaller("out of memory", self.device.type) or options
        self.seats = [
            Seat(number, EngineLife(self.pool, self.device.type, options, own | (environment or {})), self._hear)
            for number, own in enumerate(environments(self.device.type, options))
        ]
        self.record = Record(journal, self._fail)
        self.peak_memory_bytes = self.weights_bytes = self.reused_tokens = 0
        self._on_batch = on_batch
        self._queue = Queue()
        self._crew = Crew(self.seats, self._queue, self._send)
        self._alike: dict[tuple[Any, ...], Waiting] = {}
        self._next_id = 0
        self._failure: BaseException | None = None
        self._sending: asyncio.Task[None] | None = None
        self._ticking: asyncio.Task[None] | None = None

    @property
    def seconds(self) -> float:
        """Time in which there was something to complete, the engines' start and earlier attempts included."""
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
        loop = asyncio.get_running_loop()
        for seat in self.seats:
            seat.loop = loop
        if self._ticking is None or self._ticking.done():
            self._ticking = loop.create_task(self._tick())
        same = certain(request, prompt)
        twin = self._alike.get(same) if same else None
        if twin is not None:
            completion = await twin.future
            self.record.add(request, completion)
            self._count(1)
            return completion
        waiting = Waiting(request, prompt, loop.create_future())
        if same:
            self._alike[same] = waiting
            waiting.future.add_done_callback(lambda _: self._alike.pop(same, None))
        group = self.pool.group(request.model)
        self._queue.add(group, waiting)
        self.record.run()
        if self._queue.count(group) >= CHUNK:
            self._crew.hand_out(group)
        self._send_soon()
        return await waiting.future

    def close(self) -> None:
        """Stop the engines, and write what is not written yet."""
        for seat in self.seats:
            seat.ready = False
            seat.life.close()
        self.record.close()

    # --- to the engines ----------------------------------------------------
    def _send_soon(self) -> None:
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._until_quiet())

    async def _until_quiet(self) -> None:
        """Hand out what comes at once; start an engine, or another, only when every debate waits."""
        quiet, size = 0, -1
        while quiet < _QUIET_TURNS:
            for group in self._queue.groups():
                self._crew.hand_out(group)
            await asyncio.sleep(0)
            now = self._next_id + len(self._queue)
            quiet, size = (quiet + 1, now) if now == size else (0, now)
        try:
            self._crew.occupy()
        except BaseException as error:
            self._fail(error)

    def _send(self, seat: Seat, dealt: list[Waiting]) -> None:
        rows = []
        for waiting in dealt:
            room = seat.context - len(waiting.prompt)
            if waiting.future.done():
                continue
            if room <= 0:
                self._settle(waiting, Completion("", (), len(waiting.prompt), "length"))
                self._count(1)
                continue
            rows.append(self._row(self._next_id, waiting, room))
            seat.in_flight[self._next_id] = waiting
            self._next_id += 1
        if rows:
            self.record.run()  # those without room may have been the last
            seat.send(rows)

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

    # --- from the engines --------------------------------------------------
    def _hear(self, seat: Seat, message: tuple[Any, ...]) -> None:
        try:
            if message[0] == "ready":
                facts = message[1]
                seat.on_ready(facts["context"])
                self.peak_memory_bytes = max(self.peak_memory_bytes, facts["memory"])
                self.weights_bytes = max(self.weights_bytes, facts["weights"])
                self._crew.hand_out(seat.group)
                self._crew.prepare()
                self._send_soon()
            elif message[0] == "done":
                self.peak_memory_bytes = max(self.peak_memory_bytes, message[2])
                for made in message[1]:
                    self._on_made(seat, made)
                self._crew.hand_out(seat.group)
                self._count(len(message[1]))
            else:
                self._on_failed(seat, *message[1:])
        except BaseException as error:
            self._fail(error)

    def _on_made(self, seat: Seat, made: Made) -> None:
        waiting = seat.in_flight.pop(made.id)
        self.reused_tokens += made.reused
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
        if len(self._queue):
            if any(seat.idle for seat in self.seats):
                self._send_soon()
        elif not self._crew.in_flight:
            self.record.pause()

    def _on_failed(self, seat: Seat, kind: str, reason: str) -> None:
        was_ready = seat.ready
        self._queue.put_back(seat.group, seat.give_up())
        say(seat.life.failed(kind, reason, was_ready))
        if self._queue.count(seat.group):
            seat.start(seat.group)
        self._send_soon()  # the others may take them meanwhile

    def _fail(self, error: BaseException) -> None:
        """Everybody waiting must hear of it, or the program hangs."""
        self._failure = error
        left = list(self._queue)
        for seat in self.seats:
            left += seat.give_up()
            seat.life.kill()
        self._queue.clear()
        for waiting in left:
            if not waiting.future.done():
                waiting.future.set_exception(error)

    async def _tick(self) -> None:
        """Let the job be stopped also while an engine starts, or makes long answers only."""
        try:
            while len(self._queue) or self._crew.in_flight:
                self._count(0)
                await asyncio.sleep(_TICK_SECONDS)
        except Exception as error:
            self._fail(error)

    def _count(self, completions: int) -> None:
        if self._on_batch:
            self._on_batch(completions)
