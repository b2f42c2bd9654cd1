"""An adapted linear layer in as few passes over memory as it takes.

PEFT's layer makes the base's output, the adapter's, scales one and adds it
to the other, each a trip through memory of the whole output, and autograd
makes as many on the way back. On a fast GPU these trips cost as much as a
fifth of the matrix products. Here the adapter is added by the product that
computes it. The same numbers, to rounding.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch.autograd.function import once_differentiable


class _AdaptedLinear(torch.autograd.Function):
    """``x W^T + bias + scaling (x A^T) B^T`` with W and bias frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ down.T
        output = torch.nn.functional.linear(rows, weight, bias)
        output.addmm_(low, up.T, alpha=scaling)
        ctx.save_for_backward(x, weight, down, up, low)
        ctx.scaling = scaling
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, down, up, low = ctx.saved_tensors
        rows = x.reshape(-1, x.shape[-1])
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        # Of the low-rank product; so narrow that scaling it costs nothing.
        inner = (gradient @ up) * ctx.scaling
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (gradient @ weight).addmm_(inner, down).view_as(x)
        return to_x, None, None, inner.T @ rows, (gradient.T @ low) * ctx.scaling, None


def _forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    base, (name, *others) = self.base_layer, self.active_adapters
    down, up = self.lora_A[name].weight, self.lora_B[name].weight
    plain = not (args or kwargs or others or self.merged or self.disable_adapters)
    if plain and x.dtype == base.weight.dtype == down.dtype:
        return _AdaptedLinear.apply(x, base.weight, base.bias, down, up, self.scaling[name])
    return type(self).forward(self, x, *args, **kwargs)


def quicken(model: torch.nn.Module) -> int:
    """Let a PEFT model's plain LoRA layers compute as above.

    Parameters
    ----------
    model
        Its weights have to be there whenever a layer runs, so not under
        ZeRO-3, which fetches them by hooks on the layers inside.

    Returns
    -------
    int
        How many layers now do; those with dropout or of another kind do not.
    """
    from peft.tuners.lora.layer import Linear

    changed = 0
    for module in model.modules():
        if type(module) is not Linear or type(module.base_layer) is not torch.nn.Linear or module.lora_variant:
            continue
        frozen = not any(parameter.requires_grad for parameter in module.base_layer.parameters())
        names = module.active_adapters
        undropped = all(isinstance(module.lora_dropout[name], torch.nn.Identity) for name in names)
        unbiased = all(module.lora_B[name].bias is None for name in names)
        if frozen and undropped and unbiased and len(names) == 1:
            module.forward = MethodType(_forward, module)
            changed += 1
    return changed
