"""Adapted linear layers in as few passes over memory as they take.

PEFT's layer makes the base's output, the adapter's, scales one and adds it
to the other, each a trip through memory of the whole output, and autograd
makes as many on the way back. On a fast GPU these trips cost as much as a
fifth of the matrix products. Here the adapter is added by the product that
computes it, and layers that read the same input, as queries, keys and values
do, read it once. The same numbers, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# By the names that transformers' models give them, in the order of their calls.
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class _Adapted(torch.autograd.Function):
    """``x W^T + bias + scaling (x A^T) B^T`` of one layer or several, with W and bias frozen.

    After ``x`` and the scalings come each layer's W, bias, A and B.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scalings: Sequence[float], *tensors: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        weights, biases, downs, ups = (tensors[at::4] for at in range(4))
        ranks = [len(down) for down in downs]
        low = x.reshape(-1, x.shape[-1]) @ _joined(downs).T
        outputs = []
        for weight, bias, up, own, scaling in zip(weights, biases, ups, low.split(ranks, 1), scalings, strict=True):
            output = torch.nn.functional.linear(x, weight, bias)
            output.view(-1, len(weight)).addmm_(own, up.T, alpha=scaling)
            outputs.append(output)
        ctx.save_for_backward(x, low, *weights, *downs, *ups)
        ctx.scalings, ctx.ranks = scalings, ranks
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, low, *tensors = ctx.saved_tensors
        count = len(gradients)
        weights, downs, ups = (tensors[at * count : (at + 1) * count] for at in range(3))
        rows = x.reshape(-1, x.shape[-1])
        gradients = tuple(gradient.reshape(-1, gradient.shape[-1]) for gradient in gradients)
        # Of the low-rank products; so narrow that scaling them costs nothing.
        inner = _joined(
            [(own @ up) * scaling for own, up, scaling in zip(gradients, ups, ctx.scalings, strict=True)], 1
        )
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = gradients[0] @ weights[0]
            for own, weight in zip(gradients[1:], weights[1:], strict=True):
                to_x.addmm_(own, weight)
            to_x = to_x.addmm_(inner, _joined(downs)).view_as(x)
        to_downs = (inner.T @ rows).split(ctx.ranks)
        to_ups = [
            (own.T @ part) * scaling
            for own, part, scaling in zip(gradients, low.split(ctx.ranks, 1), ctx.scalings, strict=True)
        ]
        each = (part for pair in zip(to_downs, to_ups, strict=True) for part in (None, None, *pair))
        return to_x, None, *each


def _joined(parts: Sequence[torch.Tensor], dimension: int = 0) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts), dimension)


class _Family:
    """Layers that are called one after another with the same input: the first call computes them all."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = list(layers)
        self._waiting: dict[int, torch.Tensor] = {}
        self._x: torch.Tensor | None = None

    def __call__(self, layer: Any, x: torch.Tensor) -> torch.Tensor | None:
        """One layer's output; ``None`` where PEFT's own way has to be gone."""
        if self._waiting and self._x is not x:
            # This model does not call them so; each goes alone from here on.
            self._layers, self._waiting, self._x = [], {}, None
        if id(layer) not in self._waiting:
            layers = self._layers if all(_plain(own, x) for own in self._layers) else []
            # One that is called again, or alone.
            layers = layers if layers and layers[0] is layer else [layer]
            if not _plain(layer, x):
                return None
            outputs = _Adapted.apply(x, *_operands(layers))
            self._waiting, self._x = {id(own): output for own, output in zip(layers, outputs, strict=True)}, x
        output = self._waiting.pop(id(layer))
        if not self._waiting:
            self._x = None
        return output


def _plain(layer: Any, x: torch.Tensor) -> bool:
    base, (name, *others) = layer.base_layer, layer.active_adapters
    off = others or layer.merged or layer.disable_adapters
    return not off and x.dtype == base.weight.dtype == layer.lora_A[name].weight.dtype


def _operands(layers: Sequence[Any]) -> tuple[Any, ...]:
    name = layers[0].active_adapters[0]
    tensors = [
        tensor
        for own in layers
        for tensor in (own.base_layer.weight, own.base_layer.bias, own.lora_A[name].weight, own.lora_B[name].weight)
    ]
    return tuple(own.scaling[name] for own in layers), *tensors


def _forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    output = None if args or kwargs else self.family(self, x)
    return type(self).forward(self, x, *args, **kwargs) if output is None else output


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
    changed = 0
    for module in model.modules():
        children = {name: child for name, child in module.named_children() if _quickenable(child)}
        for names in _SIBLINGS:
            if all(name in children for name in names):
                layers = [children.pop(name) for name in names]
                changed += _join(layers)
        changed += sum(_join([child]) for child in children.values())
    return changed


def _join(layers: Sequence[Any]) -> int:
    family = _Family(layers)
    for layer in layers:
        layer.family = family
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _quickenable(module: torch.nn.Module) -> bool:
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or type(module.base_layer) is not torch.nn.Linear or module.lora_variant:
        return False
    names = module.active_adapters
    frozen = not any(parameter.requires_grad for parameter in module.base_layer.parameters())
    undropped = all(isinstance(module.lora_dropout[name], torch.nn.Identity) for name in names)
    unbiased = all(module.lora_B[name].bias is None for name in names)
    return frozen and undropped and unbiased and len(names) == 1
