"""One adapter in the weights themselves, the others served as what sets them apart from it.

Kernels for adapters cost a third of a debate of an 8B model: they read and
write every activation once more. A step is mostly one agent's, though. So the
agent with most work to do has its adapter added to the base's weights, and its
rows need no such kernel; any other agent's rows, and the base's own, get an
adapter of twice the rank, their own minus the one in the weights. What a row
computes is the same whoever is folded in, so that may change between any two
steps: no request waits for it, and no cached key or value has to be forgotten.

The weights without any adapter are kept in the machine's memory, and every
change begins from those: nothing adds up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hpcmaf.engines.vllm_memory import spare_memory

# Weights may take this share of the memory that is free.
_SHARE = 0.6


class CannotFold(Exception):
    """Why this engine's adapters stay beside its weights."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A projection with an adapter of its own, as vLLM joins several in one matrix.

    Attributes
    ----------
    down, up
        vLLM's buffers of all slots: [slots, 1, R, in] and [slots, 1, out, R].
    rows
        Which rows of the matrix it is.
    own
        Name to its adapter: ([r, in], [out, r]), scaled.
    """

    down: torch.Tensor
    up: torch.Tensor
    rows: slice
    own: dict[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class _Matrix:
    """Weights [out, in] of a layer, as loaded (in the machine's memory) and as computed with."""

    weight: torch.Tensor
    loaded: torch.Tensor
    parts: tuple[_Part, ...]


class FoldedWeights:
    """The matrices of a vLLM model that adapters change.

    Parameters
    ----------
    manager
        vLLM's LoRA manager, with all adapters in slots.
    slots
        Agent to slot.
    stand_in
        Slot of the base's rows while an adapter is folded in.
    rank
        Largest rank of an adapter; the slots hold twice as much.

    Attributes
    ----------
    folded
        Agent whose adapter is in the weights.

    Raises
    ------
    CannotFold
        The weights are not plain matrices, or the machine has no memory for
        their copy.
    """

    def __init__(self, manager: Any, slots: Mapping[str, int], stand_in: int, rank: int) -> None:
        self.slots = dict(slots)
        self.stand_in = stand_in
        self.rank = rank
        self.folded: str | None = None
        size = sum(module.base_layer.weight.nbytes for module in manager.modules.values())
        if size > _SHARE * spare_memory():
            raise CannotFold(f"a copy of the weights takes {size / 1e9:.1f} GB of the machine's memory")
        self.matrices = [self._matrix(name, module) for name, module in manager.modules.items()]

    def _matrix(self, name: str, module: Any) -> _Matrix:
        base = getattr(module, "base_layer", None)
        weight = getattr(base, "weight", None)
        method = type(getattr(base, "quant_method", None)).__name__
        if method != "UnquantizedLinearMethod" or weight is None or weight.dim() != 2 or not weight.numel():
            raise CannotFold(f"{name} has no plain weights ({method})")
        outs = [up.shape[2] for up in module.lora_b_stacked]
        if sum(outs) != weight.shape[0] or any(down.shape[3] != weight.shape[1] for down in module.lora_a_stacked):
            raise CannotFold(f"{name} has parts of other shapes than its weights")
        if any(down.shape[2] < 2 * self.rank for down in module.lora_a_stacked):
            raise CannotFold(f"{name} has no room for two adapters in one")
        parts, begin = [], 0
        for down, up, out in zip(module.lora_a_stacked, module.lora_b_stacked, outs, strict=True):
            own = {
                agent: (down[slot, 0, : self.rank].clone(), up[slot, 0, :, : self.rank].clone())
                for agent, slot in self.slots.items()
            }
            parts.append(_Part(down, up, slice(begin, begin + out), own))
            begin += out
        try:
            loaded = torch.empty(weight.shape, dtype=weight.dtype, device="cpu", pin_memory=weight.is_cuda)
        except RuntimeError as error:
            raise CannotFold(f"the machine has no memory for a copy of the weights ({error})") from error
        return _Matrix(weight.data, loaded.copy_(weight.data), tuple(parts))

    @torch.inference_mode()
    def fold(self, agent: str | None) -> None:
        """Have one agent's adapter in the weights; ``None`` has none there, nor any of two in a slot.

        The engine must not be in the middle of a step.
        """
        cuda = bool(self.matrices) and self.matrices[0].weight.is_cuda
        if cuda:
            torch.cuda.synchronize()
        for matrix in self.matrices:
            matrix.weight.copy_(matrix.loaded, non_blocking=True)
            for part in matrix.parts:
                self._fold_part(matrix, part, agent)
        if cuda:
            torch.cuda.synchronize()
        self.folded = agent

    def _fold_part(self, matrix: _Matrix, part: _Part, agent: str | None) -> None:
        other = slice(self.rank, 2 * self.rank)
        # A slot that is nobody's stays empty: to it CPUs send rows without an adapter.
        used = [*self.slots.values(), self.stand_in]
        part.up[self.stand_in] = 0
        if agent is None:
            part.up[used, 0, :, other] = 0
            return
        down, up = part.own[agent]
        # One rounding: the product is added before the sum becomes bfloat16.
        matrix.weight[part.rows].addmm_(up, down)
        for slot in used:
            part.down[slot, 0, other] = down
            part.up[slot, 0, :, other] = -up
