"""Which slot's adapter each row of a step gets, once an adapter may be in the weights.

Also without vLLM's own way of telling its kernels, which asks the GPU about
every step's tokens, and so waits until it has finished all it was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

_NONE = 0  # what vLLM has for the id of no adapter


class LoraRows:
    """Stands between vLLM's model runner and its LoRA kernels.

    Parameters
    ----------
    runner
        vLLM's model runner, of either generation.
    requests
        Id to vLLM's request for each adapter that is loaded, the stand-in
        included.
    stand_in
        Id of what the base's rows get while an adapter is in the weights.

    Raises
    ------
    AttributeError, KeyError, ValueError
        This vLLM is built otherwise than those known.
    """

    def __init__(self, runner: Any, requests: Mapping[int, Any], stand_in: int = _NONE) -> None:
        self.requests = dict(requests)
        self.stand_in = stand_in
        self.table = np.arange(max(self.requests) + 1)
        manager = runner.lora_manager._adapter_manager
        slots = {id: slot for slot, id in enumerate(manager.lora_index_to_id) if id is not None}
        # Index of an id: -1 is what the kernels leave alone.
        self.slots = np.array([slots.get(id, -1) for id in range(max(self.requests) + 1)])
        (punica,) = manager.punica_wrapper_mapping.values()
        self.kernels = [getattr(punica, name, None) for name in ("token_mapping_meta", "prompt_mapping_meta")]
        # Of the older generation, and of CPUs, nothing but the ids is changed.
        self.told = hasattr(runner, "lora_state") and None not in self.kernels
        self._plain = runner._set_active_loras
        if hasattr(runner, "lora_state"):
            self.state = runner.lora_state
            self.state.get_activate_loras = self._active
            self.state.make_lora_inputs = self._inputs
        else:
            self.batch = runner.input_batch
            self.batch.make_lora_inputs = self._inputs_by_token
        if self.told:
            runner._set_active_loras = self._tell

    def fold(self, id: int | None) -> None:
        """Give rows of this adapter none, as the weights hold it, and the base's rows the stand-in."""
        self.table = np.arange(len(self.table))
        if id is not None:
            self.table[id], self.table[_NONE] = _NONE, self.stand_in

    # --- what vLLM asks ----------------------------------------------------
    def _active(self, names: Sequence[str]) -> set[Any]:
        """Adapters that the kernels are needed for."""
        known = self.state.lora_requests
        ids = {known[name].lora_int_id if name in known else _NONE for name in names}
        return {self.requests[int(self.table[id])] for id in ids if self.table[id] != _NONE}

    def _inputs(self, names: Sequence[str], places: np.ndarray, tokens: np.ndarray) -> tuple[Any, Any, Any]:
        """Ids of a step's rows and how many tokens each has, for :meth:`_tell`; or as vLLM has them."""
        ids = self.table[self.state.lora_ids[places]]
        if self.told:
            return ids, tokens, None
        return tuple(ids), tuple(ids.repeat(tokens)), set(self.requests.values())

    def _inputs_by_token(self, tokens: np.ndarray, sampled: np.ndarray) -> tuple[Any, Any, Any]:
        ids = self.table[self.batch.request_lora_mapping[: self.batch.num_reqs]]
        return tuple(ids.repeat(sampled)), tuple(ids.repeat(tokens)), set(self.requests.values())

    def _tell(self, ids: Any, tokens: Any, requests: Any, *more: Any) -> None:
        """Tell the kernels, from what the machine knows, without asking the GPU anything."""
        if requests is not None:  # a trial run of vLLM's own
            self._plain(ids, tokens, requests, *more)
            return
        slots = self.slots[ids]
        meta, outputs = self.kernels
        assert meta is not None and outputs is not None
        outputs.no_lora_flag_cpu[0] = True  # no adapter changes the output layer
        meta.no_lora_flag_cpu[0] = none = bool((slots < 0).all())
        if not none:
            tell_kernels(meta, slots, tokens)


def tell_kernels(meta: Any, slots: np.ndarray, tokens: np.ndarray) -> None:
    """Fill vLLM's ``LoRAKernelMeta`` for a step: what its ``prepare_tensors`` does, from the rows alone.

    Parameters
    ----------
    meta
        Its tensors on the GPU.
    slots
        int[rows]: slot of each row, -1 for none.
    tokens
        int[rows]: tokens of each row in this step.
    """
    by_token = slots.repeat(tokens)
    order = np.argsort(by_token, kind="stable")
    found, counts = np.unique(by_token, return_counts=True)
    places = len(meta.active_lora_ids)
    small = np.zeros(3 * places + 1, dtype=np.int32)
    small[:places] = -1
    small[: len(found)] = found
    small[places : places + len(counts)] = counts
    small[2 * places + 1 : 2 * places + 1 + len(counts)] = counts.cumsum()
    count, device = len(by_token), meta.token_lora_mapping.device
    whole = torch.from_numpy(np.concatenate([by_token, order, small]).astype(np.int32))
    if device.type == "cuda":
        whole = whole.pin_memory()
    whole = whole.to(device, non_blocking=True)
    meta.token_lora_mapping[:count].copy_(whole[:count])
    meta.token_indices_sorted_by_lora_ids[:count].copy_(whole[count : 2 * count])
    rest = whole[2 * count :]
    meta.active_lora_ids.copy_(rest[:places])
    meta.num_tokens_per_lora.copy_(rest[places : 2 * places])
    meta.lora_token_start_loc.copy_(rest[2 * places :])
    active = len(found)
    larger = [size for size in meta.captured_lora_counts if size >= active]
    meta.num_active_loras_cpu[0] = larger[0] if larger else active
