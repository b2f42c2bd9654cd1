"""Generation with transformers: static batches over whatever is ready.

Requests of all problems, rounds and agents wait in one pool. Whenever every
debate is waiting, one batch goes out, longest prompts first and adapters
mixed where one alone would not fill it; the debates it belongs to then move
on by themselves. There is no barrier between rounds, and prompts of one
length travel together, so little is padded. Runs everywhere torch does.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from hpcmaf.engines.base import Completion, Request, ServedModels
from hpcmaf.engines.batching import Waiting, take_batch
from hpcmaf.engines.generating import generate
from hpcmaf.engines.journal import Journal
from hpcmaf.engines.mixing import BASE
from hpcmaf.engines.models import ModelPool, pick_device
from hpcmaf.engines.scoring import log_likelihoods

# Loop turns without a new request after which all debates count as waiting.
# Waking a debate from a finished batch takes four: the request's future, the
# gather over the agents, the debate's task, its new requests' tasks.
_QUIET_TURNS = 8


class TransformersEngine:
    """An ``Engine`` on ``transformers.generate``.

    Parameters
    ----------
    served
        Base and agents.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    batch_size
        Most requests generated together; halved, aloud, when memory runs out.
    loaded_models
        Fully finetuned checkpoints kept in memory at once.
    journal
        Where finished batches are kept; ``None`` keeps none.
    on_batch
        Called after every batch with the number of completions in it.
    """

    gpus = 1

    def __init__(
        self,
        served: ServedModels,
        *,
        device: str = "auto",
        batch_size: int = 128,
        loaded_models: int = 8,
        journal: Journal | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        self.device = pick_device(device)
        self.pool = ModelPool(served, self.device, loaded_models)
        self.batch_size = batch_size
        self.journal = journal
        self.seconds = journal.seconds if journal is not None else 0.0
        self._on_batch = on_batch
        self._waiting: dict[str | None, list[Waiting]] = {}
        self._pump: asyncio.Task[None] | None = None
        self._current: str | None = None

    async def complete(self, request: Request) -> Completion:
        """Generate one completion; see ``Engine``.

        A prompt that fills the context leaves no room to answer: its
        completion is empty, with finish reason ``"length"``.
        """
        prompt = self.pool.prompt(request)
        if len(prompt) >= self.pool.context:
            return Completion("", (), len(prompt), "length")
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        group = self.pool.group(request.model)
        self._waiting.setdefault(group, []).append(Waiting(request, prompt, future))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())
        return await future

    @property
    def peak_memory_bytes(self) -> int:
        """Most bytes of GPU memory in use so far; 0 without a GPU."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0

    def close(self) -> None:
        """Drop the models."""
        self.pool.close()
        if self.journal is not None:
            self.journal.close()

    # --- scheduling --------------------------------------------------------
    async def _run(self) -> None:
        while True:
            await self._until_quiet()
            batch = self._next_batch()
            if not batch:
                return
            try:
                completions = self._resolve(batch)
            except BaseException as error:
                # Everybody waiting must hear of it, or the program hangs.
                self._fail(batch, error)
                return
            for waiting, completion in zip(batch, completions, strict=True):
                waiting.future.set_result(completion)

    def _fail(self, batch: Sequence[Waiting], error: BaseException) -> None:
        for waiting in [*batch, *(waiting for queue in self._waiting.values() for waiting in queue)]:
            if not waiting.future.done():
                waiting.future.set_exception(error)
        self._waiting.clear()

    async def _until_quiet(self) -> None:
        quiet, size = 0, -1
        while quiet < _QUIET_TURNS:
            await asyncio.sleep(0)
            now = sum(map(len, self._waiting.values()))
            quiet, size = (quiet + 1, now) if now == size else (0, now)

    def _next_batch(self) -> list[Waiting]:
        """Take a batch of one group.

        With all checkpoints in memory the fullest group goes first; with
        fewer places than checkpoints the engine stays with one until it has
        nothing left, because a swap costs more than a thin batch.
        """
        groups = {group: queue for group, queue in self._waiting.items() if queue}
        if not groups:
            return []
        stay = self.pool.groups > self.pool.capacity and self._current in groups and self.pool.loaded(self._current)
        if not stay:
            self._current = max(groups, key=lambda group: (len(groups[group]), str(group)))
        return take_batch(groups[self._current], self.batch_size)

    def _resolve(self, batch: Sequence[Waiting]) -> list[Completion]:
        """Complete a batch, from the journal where it holds it."""
        known = [self.journal.find(waiting.request) if self.journal is not None else None for waiting in batch]
        missing = [waiting for waiting, completion in zip(batch, known, strict=True) if completion is None]
        if missing:
            start = time.monotonic()
            made = self._generate(missing)
            seconds = time.monotonic() - start
            self.seconds += seconds
            if self.journal is not None:
                self.journal.append([waiting.request for waiting in missing], made, seconds)
            by_key = {waiting.request.key: completion for waiting, completion in zip(missing, made, strict=True)}
            known = [completion or by_key[w.request.key] for w, completion in zip(batch, known, strict=True)]
        if self._on_batch:
            self._on_batch(len(batch))
        return known  # type: ignore[return-value]

    # --- generation --------------------------------------------------------
    def _generate(self, batch: Sequence[Waiting]) -> list[Completion]:
        try:
            return self._generate_once(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            torch.cuda.empty_cache()
            half = max(1, len(batch) // 2)
            self.batch_size = min(self.batch_size, half)
            print(f"out of memory with {len(batch)} requests; going on with {half}", file=sys.stderr)
            return [
                completion
                for start in range(0, len(batch), half)
                for completion in self._generate(batch[start : start + half])
            ]

    @torch.inference_mode()
    def _generate_once(self, batch: Sequence[Waiting]) -> list[Completion]:
        model = self.pool.get(self.pool.group(batch[0].request.model))
        answered = [waiting for waiting in batch if not waiting.request.scored]
        made = dict(zip(map(id, answered), self._answer(model, answered) if answered else [], strict=True))
        completions = [made.get(id(w)) or Completion("", (), len(w.prompt), "length") for w in batch]
        return self._likelihoods(model, batch, completions)

    def _likelihoods(self, model: Any, batch: Sequence[Waiting], completions: list[Completion]) -> list[Completion]:
        """Add log-likelihoods to the completions whose requests ask for them."""
        asked = [position for position, waiting in enumerate(batch) if waiting.request.logprobs]
        if not asked:
            return completions
        texts = [batch[position].prompt + list(completions[position].token_ids) for position in asked]
        adapters = [batch[position].request.model or BASE for position in asked]
        values = log_likelihoods(model, texts, adapters if self._has_adapters() else None, self.device)
        for position, row in zip(asked, values, strict=True):
            prompt = len(batch[position].prompt) - 1
            completions[position] = replace(
                completions[position], prompt_logprobs=tuple(row[:prompt]), logprobs=tuple(row[prompt:])
            )
        return completions

    def _has_adapters(self) -> bool:
        return self.pool.served.tuning == "lora" and bool(self.pool.served.agents)

    def _answer(self, model: Any, batch: Sequence[Waiting]) -> list[Completion]:
        # Rows of one adapter side by side; see ``mixing``.
        batch_order = sorted(range(len(batch)), key=lambda row: batch[row].request.model or "")
        ordered = [batch[row] for row in batch_order]
        made = generate(
            model,
            [waiting.prompt for waiting in ordered],
            [waiting.request for waiting in ordered],
            [min(w.request.sampling.max_new_tokens, self.pool.context - len(w.prompt)) for w in ordered],
            stop_ids=self.pool.stop_ids,
            pad=self.pool.chat.tokenizer.pad_token_id,
            adapters=[w.request.model or BASE for w in ordered] if self._has_adapters() else None,
            device=self.device,
        )
        by_row = dict(zip(batch_order, made, strict=True))
        return [self._completion(by_row[row], waiting) for row, waiting in enumerate(batch)]

    def _completion(self, tokens: list[int], waiting: Waiting) -> Completion:
        reason = "stop" if tokens and tokens[-1] in self.pool.stop_ids else "length"
        text = self.pool.chat.decode(tokens)
        return Completion(text, tuple(tokens), len(waiting.prompt), reason)  # type: ignore[arg-type]
