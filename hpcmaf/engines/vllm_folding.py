"""Folding as an engine does it: the weights and the rows, changed together."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from hpcmaf.engines.vllm_fold import CannotFold, FoldedWeights
from hpcmaf.engines.vllm_life import say
from hpcmaf.engines.vllm_rows import LoraRows


def model_runner(engine: Any) -> Any:
    """What runs the model of a vLLM engine in this process; ``None`` where it runs in others."""
    try:
        return engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    except AttributeError:  # or another version's names
        return None


class Folding:
    """Folds agents' adapters into the weights of a running vLLM engine.

    Parameters
    ----------
    engine
        vLLM's engine, in this process and between two steps.
    adapters
        Agent to vLLM's request for its adapter, ids from 1 on.
    rank
        Largest rank of an adapter, as vLLM has it.

    Attributes
    ----------
    changes, seconds
        How often the weights were changed, and how long that took in all.

    Raises
    ------
    CannotFold
        See ``vllm_fold``; or this vLLM is built otherwise than those known.
    """

    def __init__(self, engine: Any, adapters: Mapping[str, Any], rank: int) -> None:
        from vllm.lora.request import LoRARequest

        runner = model_runner(engine)
        if runner is None:
            raise CannotFold("this vLLM keeps its model elsewhere")
        some = next(iter(adapters.values()))
        # The base's rows while an adapter is in the weights; what it is loaded with is written over.
        stand_in = LoRARequest("base-beside-an-adapter", len(adapters) + 1, some.lora_path)
        requests = {request.lora_int_id: request for request in (*adapters.values(), stand_in)}
        for request in requests.values():
            engine.add_lora(request)
        try:
            manager = runner.lora_manager._adapter_manager
            slots = {id: slot for slot, id in enumerate(manager.lora_index_to_id) if id is not None}
            self.ids = {agent: request.lora_int_id for agent, request in adapters.items()}
            own = {agent: slots[id] for agent, id in self.ids.items()}
            self.weights = FoldedWeights(manager, own, slots[stand_in.lora_int_id], rank)
            self.rows = LoraRows(runner, requests, stand_in.lora_int_id)
        except (AttributeError, KeyError, ValueError) as error:
            raise CannotFold(f"this vLLM serves adapters in another way ({error})") from error
        self.changes, self.seconds = 0, 0.0
        # Nothing of the stand-in's own may be left in its slot.
        self.weights.fold(None)

    @property
    def folded(self) -> str | None:
        """Agent whose adapter is in the weights."""
        return self.weights.folded

    def fold(self, agent: str | None) -> None:
        """Have one agent's adapter in the weights; ``None`` has none there."""
        if agent != self.folded:
            began = time.monotonic()
            self.weights.fold(agent)
            self.rows.fold(None if agent is None else self.ids[agent])
            self.changes, self.seconds = self.changes + 1, self.seconds + time.monotonic() - began
            say(f"vLLM: {agent or 'nobody'} is in the weights, after {time.monotonic() - began:.2f} s")
