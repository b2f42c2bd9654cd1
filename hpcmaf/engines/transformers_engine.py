"""Generation with transformers: static batches over whatever is ready, in the job's own process.

Requests of all problems, rounds and agents wait in one pool. Whenever every debate is waiting, one batch goes out,
longest prompts first and adapters mixed where one alone would not fill it; the debates it belongs to then move on by
themselves. There is no barrier between rounds, and prompts of one length travel together, so little is padded. Runs
everywhere torch does.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from hpcmaf.engines.base import Completion, Request, ServedModels, until_quiet
from hpcmaf.engines.engine import BaseEngine, Prompts
from hpcmaf.engines.generating import Waiting, generate, likelihoods
from hpcmaf.engines.journal import Journal
from hpcmaf.errors import EngineError, OutOfMemory
from hpcmaf.models.basemodel import load, pick_device

# Prompts within so many tokens of each other count as equally long, so that those for one adapter can travel together.
_LENGTH_STEP = 32


def next_batch(waiting: Sequence[Waiting], batch_size: int) -> list[Waiting]:
    """What of the waiting goes out next: longest prompts first, one adapter where that fills half of a batch.

    Every further adapter in a batch costs its own small matrix products in every layer. The rest travels mixed: waiting
    for company would bring back the barrier between rounds. What is chosen does not depend on their order, as keys are
    unique.
    """

    def order(one: Waiting) -> tuple[int, str, int, str]:
        length, request = len(one.prompt), one.request
        return -(length // _LENGTH_STEP), request.model or "", -length, request.key

    ordered = sorted(waiting, key=order)
    by_model: dict[str | None, list[Waiting]] = defaultdict(list)
    for one in ordered:
        by_model[one.request.model].append(one)
    full = [crowd for crowd in by_model.values() if 2 * len(crowd) >= batch_size]
    return (full[0] if full else ordered)[:batch_size]


class TransformersEngine(BaseEngine):
    """An ``Engine`` on a model in this process; see ``BaseEngine`` for what is not said here.

    Parameters
    ----------
    served
        Base and agents.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    batch_size
        Most requests generated together.
    """

    counts = True

    def __init__(
        self, served: ServedModels, *, device: str = "auto", batch_size: int = 128,
        journal: Journal | None = None, on_batch: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        self.device = pick_device(device)
        super().__init__(Prompts(served), journal, on_batch)
        self.served, self.batch_size, self.gpus = served, batch_size, int(self.device.type == "cuda")
        self._tokens = 0
        self._waiting: list[Waiting] = []
        self._pump: asyncio.Task[None] | None = None
        self._loaded: tuple[str | None, Any] | None = None
        self._mixes = served.tuning == "lora" and bool(served.agents)

    async def send(self, request: Request) -> Completion:
        """Complete a request in some batch; see ``BaseEngine``."""
        prompt = self.prompts.ids(request)
        if len(prompt) >= self.prompts.context:
            self.count(1)
            return Completion("", (), len(prompt), "length")
        waiting = Waiting(request, prompt, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())
        return await waiting.future

    @property
    def peak_memory_bytes(self) -> int:
        """Most bytes of GPU memory in use so far; 0 without a GPU."""
        return torch.cuda.max_memory_allocated() if self.gpus else 0

    def note(self) -> str:
        """What there is to say of the work in progress."""
        return f"{self._tokens / self.journal.running:,.0f} tokens/s" if self.journal.running else ""

    def averages(self) -> dict[str, Any]:
        """What there is to say of the whole."""
        return {"tokens_per_second": round(self._tokens / max(1e-9, self.journal.seconds - self.journal.earlier), 1)}

    def close(self) -> None:
        """Drop the models, and write what is not written yet."""
        super().close()
        self._loaded = None
        if self.gpus:
            torch.cuda.empty_cache()

    # --- scheduling --------------------------------------------------------
    def _group(self, request: Request) -> str | None:
        """The checkpoint that a request needs; all adapters share the base's batches."""
        return None if self.served.tuning == "lora" else request.model

    async def _run(self) -> None:
        current = self.journal.last_model
        while True:
            await until_quiet(lambda: len(self._waiting))
            if not self._waiting:
                return
            groups = Counter(self._group(one.request) for one in self._waiting)
            # One model as long as it has requests: loading another may cost more than a thin batch.
            if current not in groups:
                current = max(groups, key=lambda group: (groups[group], str(group)))
            batch = next_batch([one for one in self._waiting if self._group(one.request) == current], self.batch_size)
            self._waiting = list({*self._waiting} - {*batch})
            try:
                self.journal.write()  # before more is computed
                self.check()
                completions = self._generate(batch)
            except BaseException as error:
                if isinstance(error, torch.OutOfMemoryError):
                    error = OutOfMemory(f"{len(batch)} requests at once need more memory than there is; use less")
                # Everybody waiting must get the error, or the program hangs.
                for waiting in [*batch, *self._waiting]:
                    if not waiting.future.done():
                        waiting.future.set_exception(error)
                self._waiting = []
                return
            for waiting, completion in zip(batch, completions, strict=True):
                waiting.future.set_result(completion)

    # --- models ------------------------------------------------------------
    def load(self, group: str | None) -> Any:
        """The model of a batch; of whole checkpoints one is in memory at a time."""
        if self._loaded is not None and self._loaded[0] == group:
            return self._loaded[1]
        self._loaded, served = None, self.served
        path = served.base if group is None else served.agents[group]
        source = served.source if path == served.base else {**served.source, "revision": None}
        model = load(AutoModelForCausalLM, path, dtype=served.dtype, **source).to(self.device)
        for name, adapter in served.agents.items() if self._mixes else ():
            from peft import PeftModel

            if not Path(adapter, "adapter_config.json").exists():
                raise EngineError(f"{adapter}: holds no PEFT adapter for {name}; finetune it again")
            if isinstance(model, PeftModel):
                model.load_adapter(adapter, adapter_name=name)
            else:
                model = PeftModel.from_pretrained(model, adapter, adapter_name=name)
        self._loaded = group, model.eval()
        return model

    # --- generation --------------------------------------------------------
    @torch.inference_mode()
    def _generate(self, batch: Sequence[Waiting]) -> list[Completion]:
        model, made = self.load(self._group(batch[0].request)), dict[int, list[int]]()
        answered = [one for one in batch if not one.request.scored]
        self.count(len(batch) - len(answered))
        if answered:
            found = generate(model, answered, self.prompts, mixes=self._mixes, on_step=self._step)
            made = dict(zip(map(id, answered), found, strict=True))
        completions = [self.prompts.completion(one.request, len(one.prompt), made.get(id(one), [])) for one in batch]
        wanted = [row for row, one in enumerate(batch) if one.request.logprobs]
        scored = [batch[row] for row in wanted]
        texts = [batch[row].prompt + list(completions[row].token_ids) for row in wanted]
        for row, values in zip(wanted, likelihoods(model, scored, texts, mixes=self._mixes), strict=True):
            prompt = len(batch[row].prompt) - 1
            scores = {"prompt_logprobs": tuple(values[:prompt]), "logprobs": tuple(values[prompt:])}
            completions[row] = replace(completions[row], **scores)
        return completions

    def _step(self, tokens: int, rows: int) -> None:
        self._tokens += tokens
        self.count(rows)
