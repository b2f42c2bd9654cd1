"""Several bases in one society: an engine for each, and every request goes to that of its model's base."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcmaf.engines.base import Completion, Request, ServedModels


class RoutingEngine:
    """An ``Engine`` of one engine per base.

    Parameters
    ----------
    engines
        Of the bases in ``served``, in that order; the first answers for the
        base of the run.
    """

    def __init__(self, served: Sequence[ServedModels], engines: Sequence[Any]) -> None:
        self.engines = {
            Path(one.base).name + f" ({one.tuning})": engine for one, engine in zip(served, engines, strict=True)
        }
        self._first = engines[0]
        self._model_of = {
            name: (engine, name if name in one.agents else None)
            for one, engine in zip(served, engines, strict=True)
            for name in (*one.agents, *one.copies)
        }
        self.gpus = max(engine.gpus for engine in engines)
        # What earlier attempts took is in the journal that the engines share; these may work at once, on the same GPUs.
        self.seconds = self._earlier = self._first.seconds
        self._began = 0.0

    async def complete(self, request: Request) -> Completion:
        """Generate one completion; see ``Engine``."""
        engine, model = self._model_of.get(request.model or "", (self._first, request.model))
        self._began = self._began or time.monotonic()
        try:
            return await engine.complete(replace(request, model=model))
        finally:
            self.seconds = self._earlier + time.monotonic() - self._began

    @property
    def peak_memory_bytes(self) -> int:
        """Most bytes of GPU memory in use so far, which every engine measures on the whole GPU."""
        return max(engine.peak_memory_bytes for engine in self.engines.values())

    def note(self) -> str:
        """What there is to say of the work in progress."""
        return "; ".join(f"{base}: {engine.note()}" for base, engine in self.engines.items())

    def means(self) -> dict[str, Any]:
        """What there is to say of the whole, by base."""
        return {base: engine.means() for base, engine in self.engines.items()}

    def close(self) -> None:
        """Release models and processes."""
        for engine in self.engines.values():
            engine.close()


def one_engine(served: Sequence[ServedModels], make: Callable[[ServedModels], Any]) -> Any:
    """The engine of some bases: that of the only one, or one that sends requests to those of all."""
    engines = [make(one) for one in served]
    return engines[0] if len(engines) == 1 else RoutingEngine(served, engines)
