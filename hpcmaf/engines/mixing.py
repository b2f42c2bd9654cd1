"""Rows of several adapters in one batch, in as few operations as that takes.

PEFT gathers every adapter's rows, wherever they are, computes, scales, and
scatters; on a CPU that costs more than the products. Here rows of one adapter
lie side by side, so they are a view, and the adapter is added by the product
that computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from types import MethodType
from typing import Any

import torch

BASE = "__base__"


def runs(names: Sequence[str]) -> list[tuple[str, int, int]]:
    """Name, begin and end of each run of equal names, without the base's."""
    found, begin = [], 0
    for name, same in groupby(names):
        end = begin + sum(1 for _ in same)
        if name != BASE:
            found.append((name, begin, end))
        begin = end
    return found


def mix_in_place(model: torch.nn.Module) -> int:
    """Let a PEFT model's plain LoRA layers mix adapters as above, for inference.

    Returns
    -------
    int
        How many layers now do.
    """
    from peft.tuners.lora.layer import Linear

    changed = 0
    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) is torch.nn.Linear and not module.lora_variant:
            module._mixed_batch_forward = MethodType(_mixed_batch_forward, module)
            changed += 1
    return changed


def _mixed_batch_forward(self: Any, x: torch.Tensor, *args: Any, adapter_names: list[str], **kwargs: Any) -> Any:
    found = [run for run in runs(adapter_names) if run[0] in self.lora_A]
    plain = all(self.lora_A[name].weight.dtype == x.dtype for name, _, _ in found)
    biased = any(self.lora_B[name].bias is not None for name, _, _ in found)
    if torch.is_grad_enabled() or not plain or biased or len(found) > 2 * len({name for name, _, _ in found}):
        return type(self)._mixed_batch_forward(self, x, *args, adapter_names=adapter_names, **kwargs)
    result = self.base_layer(x)
    for name, begin, end in found:
        low = x[begin:end].flatten(0, -2) @ self.lora_A[name].weight.T
        result[begin:end].view(-1, result.shape[-1]).addmm_(low, self.lora_B[name].weight.T, alpha=self.scaling[name])
    return result
