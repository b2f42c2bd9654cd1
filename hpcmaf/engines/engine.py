"""What all engines have in common: a journal, a clock, thoughts of limited length, and one failure for all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcmaf.engines.base import Completion, Request, ServedModels
from hpcmaf.engines.journal import Journal
from hpcmaf.models.basemodel import load
from hpcmaf.models.chat import ChatFormat
from hpcmaf.seeding import derive_seed

_TICK_SECONDS = 0.4


class Prompts:
    """A model's chat format, context (tokens of prompt and answer) and stop tokens; loads no weights."""

    def __init__(self, served: ServedModels) -> None:
        from transformers import AutoConfig

        self.chat = ChatFormat.from_pretrained(served.base, **served.source, **served.chat)
        config = load(AutoConfig, served.base, **served.source).get_text_config()
        self.context: int = getattr(config, "max_position_embeddings", None) or 2**31
        self.stop_ids = list(self.chat.stop_ids)

    def ids(self, request: Request) -> list[int]:
        """Tokens a request gives its model: those to answer, or those to score."""
        if request.scored:
            return self.chat.sample(request.messages).input_ids
        return [*self.chat.prompt_ids(request.messages), *request.begun]

    def ended(self, request: Request, tokens: Sequence[int]) -> bool:
        """Whether a response has come to a text that ends it."""
        stop = request.sampling.stop
        return bool(stop) and _first(stop, self.chat.decode([*request.begun, *tokens])) is not None

    def completion(self, request: Request, prompt: int, tokens: Sequence[int], **logprobs: Any) -> Completion:
        """The completion that tokens make, behind a prompt of some tokens."""
        tokens, prompt = [*request.begun, *tokens], prompt - len(request.begun)
        text = self.chat.decode(tokens)
        end = _first(request.sampling.stop, text)
        reason = "stop" if end is not None or (tokens and tokens[-1] in self.stop_ids) else "length"
        return Completion(text[:end], tuple(tokens), prompt, reason, **logprobs)


def _first(stop: Sequence[str], text: str) -> int | None:
    """Where the first of some texts begins in another."""
    return min((text.index(end) for end in stop if end in text), default=None)


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
    open
        Requests that are not answered.
    gpus
        GPUs in use.
    """

    gpus = peak_memory_bytes = 0
    # Whether ``send`` counts what it completes.
    counts = False

    def __init__(
        self, prompts: Prompts | None, journal: Journal | None, on_batch: Callable[[int], None] | None
    ) -> None:
        self.prompts: Any = prompts
        self.journal = Journal() if journal is None else journal
        self.open = 0
        self._on_batch = on_batch or (lambda _: None)
        self._failure: BaseException | None = None
        self._ticking: asyncio.Task[None] | None = None

    async def complete(self, request: Request) -> Completion:
        """Generate one completion; see ``Engine``.

        A prompt that fills the context leaves no room to answer: its completion is empty, with finish reason
        ``"length"``. It takes a second request where a thought is longer than ``sampling.thinking_tokens``: the first
        stops there, and the other begins with that thought and its end. Where there is no need of the second one it is
        counted as completed.
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
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.create_task(self._tick())
        try:
            made = await self.send(request)
            self.journal.append(request, made)
            if not self.counts:
                self.count(1)
            self.check()
            return made
        except Exception as error:
            self._failure = self._failure or error
            raise
        finally:
            self.open -= 1

    def count(self, completions: int) -> None:
        """Report completions; what that raises is for :meth:`check`, after they are kept."""
        try:
            self._on_batch(completions)
        except Exception as error:
            self._failure = self._failure or error

    def check(self) -> None:
        """Raise what another request, or the task's end, has stopped the engine with."""
        if self._failure is not None:
            raise self._failure

    async def _tick(self) -> None:
        """A few times a second: let the job be stopped, look at the servers, write what came."""
        try:
            while self.open:
                self._on_batch(0)
                await self.watch()
                self.journal.write()
                await asyncio.sleep(_TICK_SECONDS)
            self.journal.write()
        except Exception as error:  # the next answer, or the start that is waited for, raises it
            self._failure = self._failure or error

    # --- what an engine adds -----------------------------------------------
    async def send(self, request: Request) -> Completion:
        """Complete a request that no journal has."""
        raise NotImplementedError

    async def watch(self) -> None:
        """Look at the servers, a few times a second."""

    def note(self) -> str:
        """What there is to say of the work in progress."""
        return ""

    def averages(self) -> dict[str, Any]:
        """What there is to say of the whole."""
        return {}

    def close(self) -> None:
        """Write what is not written yet, and release models and processes."""
        self.journal.write()


class RoutingEngine:
    """An ``Engine`` for several bases: every request goes to the engine of its model's base.

    Parameters
    ----------
    engines
        Of the bases in ``served``, in that order; the first answers for the base of the run.
    """

    def __init__(self, served: Sequence[ServedModels], engines: Sequence[Any]) -> None:
        self._first = engines[0]
        names = (f"{Path(one.name or one.base).name} ({one.tuning})" for one in served)
        self.engines = dict(zip(names, engines, strict=True))
        self._model_of = {
            name: (engine, name if name in one.agents else None)
            for one, engine in zip(served, engines, strict=True)
            for name in (*one.agents, *one.copies)
        }
        # They work at once, on the same GPUs.
        self.gpus = max(engine.gpus for engine in engines)

    async def complete(self, request: Request) -> Completion:
        """Generate one completion; see ``Engine``."""
        engine, model = self._model_of.get(request.model or "", (self._first, request.model))
        return await engine.complete(replace(request, model=model))

    @property
    def peak_memory_bytes(self) -> int:
        """Most bytes of GPU memory in use so far, which every engine measures on the whole GPU."""
        return max(engine.peak_memory_bytes for engine in self.engines.values())

    def note(self) -> str:
        """What there is to say of the work in progress."""
        notes = ((base, engine.note()) for base, engine in self.engines.items())
        return "; ".join(f"{base}: {note}" for base, note in notes if note)

    def averages(self) -> dict[str, Any]:
        """What there is to say of the whole, by base."""
        return {base: engine.averages() for base, engine in self.engines.items()}

    def close(self) -> None:
        """Release models and processes."""
        for engine in self.engines.values():
            engine.close()


def one_engine(served: Sequence[ServedModels], make: Callable[[ServedModels], Any]) -> Any:
    """The engine of some bases: that of the only one, or one that sends requests to those of all."""
    engines = [make(one) for one in served]
    return engines[0] if len(engines) == 1 else RoutingEngine(served, engines)
