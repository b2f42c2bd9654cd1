"""Generation with transformers: static batches over whatever is ready, in the job's own process.

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
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from hpcmaf.engines.base import Completion, Request, ServedModels
from hpcmaf.engines.batching import Waiting, take_batch
from hpcmaf.engines.generating import generate
from hpcmaf.engines.journal import Journal
from hpcmaf.engines.prompts import Prompts, load, pick_device
from hpcmaf.errors import EngineError

# Loop turns without a new request after which all debates count as waiting.
# Waking a debate from a finished batch takes four: the request's future, the
# gather over the agents, the debate's task, its new requests' tasks.
QUIET_TURNS = 8
# PEFT's name for rows without an adapter.
_BASE = "__base__"
# Logits of this many bytes at once; a vocabulary is large.
_LOGIT_BYTES = 1 << 30


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
        Fully finetuned checkpoints kept in memory at once; the one used
        longest ago goes first.
    journal
        Where finished batches are kept; ``None`` keeps none.
    on_batch
        Called with the number of completions that are done, after every step.
    """

    def __init__(
        self, served: ServedModels, *, device: str = "auto", batch_size: int = 128, loaded_models: int = 8,
        journal: Journal | None = None, on_batch: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        self.device = pick_device(device)
        self.gpus = int(self.device.type == "cuda")
        self.served, self.prompts = served, Prompts(served)
        self.batch_size, self.loaded_models, self.journal = batch_size, loaded_models, journal
        self.seconds = journal.seconds if journal is not None else 0.0
        self._on_batch = on_batch or (lambda _: None)
        self._stop: BaseException | None = None
        self._made, self._began = 0, time.monotonic()
        self._waiting: dict[str | None, list[Waiting]] = {}
        self._pump: asyncio.Task[None] | None = None
        self._current: str | None = None
        self._models: OrderedDict[str | None, Any] = OrderedDict()
        self._mixes = served.tuning == "lora" and bool(served.agents)
        # Padding is masked; any id will do, and the end of a turn is always there.
        pad = self.prompts.chat.tokenizer.pad_token_id
        self._pad = self.prompts.chat.end_of_turn[-1] if pad is None else pad

    async def complete(self, request: Request) -> Completion:
        """Generate one completion; see ``Engine``.

        A prompt that fills the context leaves no room to answer: its
        completion is empty, with finish reason ``"length"``.
        """
        prompt = self.prompts.ids(request)
        if len(prompt) >= self.prompts.context:
            return Completion("", (), len(prompt), "length")
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(self._group(request), []).append(Waiting(request, prompt, future))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())
        return await future

    @property
    def peak_memory_bytes(self) -> int:
        """Most bytes of GPU memory in use so far; 0 without a GPU."""
        return torch.cuda.max_memory_allocated() if self.gpus else 0

    def note(self) -> str:
        """What there is to say of the work in progress."""
        return f"{self._made / max(1e-9, self.seconds + time.monotonic() - self._began):,.0f} tokens/s"

    def means(self) -> dict[str, Any]:
        """What there is to say of the whole."""
        return {"tokens_per_second": round(self._made / max(1e-9, self.seconds), 1)}

    def close(self) -> None:
        """Drop the models."""
        self._models.clear()
        if self.gpus:
            torch.cuda.empty_cache()
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
                # Everybody waiting must get the error, or the program hangs.
                for waiting in [*batch, *(waiting for queue in self._waiting.values() for waiting in queue)]:
                    if not waiting.future.done():
                        waiting.future.set_exception(error)
                self._waiting.clear()
                return
            for waiting, completion in zip(batch, completions, strict=True):
                waiting.future.set_result(completion)

    async def _until_quiet(self) -> None:
        quiet, size = 0, -1
        while quiet < QUIET_TURNS:
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
        checkpoints = 1 if self.served.tuning == "lora" else 1 + len(self.served.agents)
        stay = checkpoints > self.loaded_models and self._current in groups and self._current in self._models
        if not stay:
            self._current = max(groups, key=lambda group: (len(groups[group]), str(group)))
        return take_batch(groups[self._current], self.batch_size)

    def _resolve(self, batch: Sequence[Waiting]) -> list[Completion]:
        """Complete a batch, from the journal where it holds it."""
        found = {w.request.key: self.journal.find(w.request) if self.journal is not None else None for w in batch}
        missing = [waiting for waiting in batch if found[waiting.request.key] is None]
        self._on_batch(len(batch) - len(missing))
        if missing:
            self._began = time.monotonic()
            made = self._generate(missing)
            seconds = time.monotonic() - self._began
            self.seconds += seconds
            if self.journal is not None:
                self.journal.append([waiting.request for waiting in missing], made, seconds)
            found |= {waiting.request.key: completion for waiting, completion in zip(missing, made, strict=True)}
        if self._stop is not None:
            raise self._stop
        return [found[waiting.request.key] for waiting in batch]  # type: ignore[misc]

    def _count(self, tokens: int, rows: int) -> None:
        """Report a step; whoever wants the engine to stop gets that after the batch, which is in the journal then."""
        self._made += tokens
        try:
            self._on_batch(rows)
        except Exception as error:
            self._stop = error

    # --- models ------------------------------------------------------------
    def _group(self, request: Request) -> str | None:
        """Which batch a request can share: all adapters share the base's."""
        return None if self.served.tuning == "lora" else request.model

    def model(self, group: str | None) -> Any:
        """The model of a batch, loaded if need be."""
        if group not in self._models:
            while len(self._models) >= self.loaded_models:
                self._models.popitem(last=False)
                if self.gpus:
                    torch.cuda.empty_cache()
            self._models[group] = self._load(group)
        self._models.move_to_end(group)
        return self._models[group]

    def _load(self, group: str | None) -> Any:
        served = self.served
        path = served.base if group is None else served.agents[group]
        model = load(AutoModelForCausalLM, served, path, dtype=served.dtype).to(self.device)
        # The model's own defaults (temperature, top-k, penalties) must not leak in.
        model.generation_config = GenerationConfig(
            do_sample=False, pad_token_id=self._pad, eos_token_id=self.prompts.stop_ids
        )
        for name, adapter in served.agents.items() if self._mixes else ():
            from peft import PeftModel

            if not Path(adapter, "adapter_config.json").exists():
                raise EngineError(f"{adapter}: holds no PEFT adapter for {name}; finetune it again")
            if isinstance(model, PeftModel):
                model.load_adapter(adapter, adapter_name=name)
            else:
                model = PeftModel.from_pretrained(model, adapter, adapter_name=name)
        return model.eval()

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
            parts = (self._generate(batch[start : start + half]) for start in range(0, len(batch), half))
            return [completion for part in parts for completion in part]

    @torch.inference_mode()
    def _generate_once(self, batch: Sequence[Waiting]) -> list[Completion]:
        model = self.model(self._group(batch[0].request))
        answered = [waiting for waiting in batch if not waiting.request.scored]
        made = {id(w): tokens for w, tokens in zip(answered, self._answer(model, answered), strict=True)}
        self._count(0, len(batch) - len(answered))
        completions = [self.prompts.completion(len(w.prompt), made.get(id(w), [])) for w in batch]
        wanted = [position for position, waiting in enumerate(batch) if waiting.request.logprobs]
        texts = [batch[position].prompt + list(completions[position].token_ids) for position in wanted]
        names = [batch[position].request.model or _BASE for position in wanted]
        for position, row in zip(wanted, self._likelihoods(model, texts, names), strict=True):
            prompt = len(batch[position].prompt) - 1
            scores = {"prompt_logprobs": tuple(row[:prompt]), "logprobs": tuple(row[prompt:])}
            completions[position] = replace(completions[position], **scores)
        return completions

    def _answer(self, model: Any, batch: Sequence[Waiting]) -> list[list[int]]:
        if not batch:
            return []
        return generate(
            model,
            [waiting.prompt for waiting in batch],
            [waiting.request for waiting in batch],
            [min(w.request.sampling.max_new_tokens, self.prompts.context - len(w.prompt)) for w in batch],
            stop_ids=self.prompts.stop_ids,
            pad=self._pad,
            adapters=[w.request.model or _BASE for w in batch] if self._mixes else None,
            device=self.device,
            on_step=self._count,
        )

    def _likelihoods(self, model: Any, texts: Sequence[list[int]], names: Sequence[str]) -> list[list[float]]:
        """Natural log-likelihood of each token but the first, given those before it."""
        vocabulary = model.config.get_text_config().vocab_size
        # Rows of one length travel together, and nothing is computed for padding.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        values: dict[int, list[float]] = {}
        while order:
            width = len(texts[order[-1]])
            count = max(1, _LOGIT_BYTES // (4 * width * vocabulary))
            rows, order = order[-count:], order[:-count]
            lengths = torch.tensor([len(texts[row]) for row in rows])
            ids = torch.tensor([texts[row] + [0] * (width - len(texts[row])) for row in rows]).to(self.device)  # [B, T]
            mask = (torch.arange(width) < lengths[:, None]).long().to(self.device)
            adapters = {"adapter_names": [names[row] for row in rows]} if self._mixes else {}
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **adapters).logits
            picked = logits[:, :-1].float().log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]  # [B, T - 1]
            values |= {row: scores[: len(texts[row]) - 1] for row, scores in zip(rows, picked.tolist(), strict=True)}
        return [values[row] for row in range(len(texts))]
