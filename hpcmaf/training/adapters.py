"""Adapted linear layers in as few passes over memory as they take.

PEFT's layer makes the base's output, the adapter's, scales one and adds it
to the other, each a trip through memory of the whole output, and autograd
makes as many on the way back. On a fast GPU these trips cost as much as a
fifth of the matrix products. Here the adapter is added by the product that
computes it, and layers that read the same input, as queries, keys and values
do, read it once. The same numbers, to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import MethodType
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# By the names that transformers' models give them, in the order of their calls.
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class Operands:
    """Weights of adapted layers that read one input, and what computing and differentiating them takes.

    Parameters
    ----------
    scalings
        Of each layer's adapter.
    tensors
        Each layer's W, bias, A and B.
    """

    def __init__(self, scalings: Sequence[float], tensors: Sequence[torch.Tensor | None]) -> None:
        self.scalings = scalings
        self.weights, self.biases, self.downs, self.ups = (tensors[at::4] for at in range(4))

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Scaled low-rank products, which :meth:`backward` wants again, and each layer's output."""
        low = self._scaled(rows @ _joined(self.downs).T)
        outputs = []
        each = zip(self.weights, self.biases, self.ups, self._split(low), strict=True)
        for weight, bias, up, own in each:
            outputs.append(torch.nn.functional.linear(rows, weight, bias).addmm_(own, up.T))
        return low, outputs

    def backward(
        self, rows: torch.Tensor, low: torch.Tensor, gradients: Sequence[torch.Tensor], *, wanted: bool = True
    ) -> tuple[torch.Tensor | None, Iterator[torch.Tensor | None]]:
        """Gradients of the input, where ``wanted``, and of each layer's four tensors."""
        inner = self._scaled(_joined([own @ up for own, up in zip(gradients, self.ups, strict=True)], 1))
        to_rows = self.to_rows(gradients, inner) if wanted else None
        to_downs = self._split(inner.T @ rows, 0)
        to_ups = [own.T @ part for own, part in zip(gradients, self._split(low), strict=True)]
        return to_rows, (part for pair in zip(to_downs, to_ups, strict=True) for part in (None, None, *pair))

    def to_rows(self, gradients: Sequence[torch.Tensor], inner: torch.Tensor) -> torch.Tensor:
        """Gradient of the input."""
        total = gradients[0] @ self.weights[0]
        for own, weight in zip(gradients[1:], self.weights[1:], strict=True):
            total.addmm_(own, weight)
        return total.addmm_(inner, _joined(self.downs))

    def _scaled(self, low: torch.Tensor) -> torch.Tensor:
        # So narrow that scaling them costs nothing but a kernel's start.
        if len(set(self.scalings)) == 1:
            return low.mul_(self.scalings[0])
        return _joined([part * scaling for part, scaling in zip(self._split(low), self.scalings, strict=True)], 1)

    def _split(self, low: torch.Tensor, dimension: int = 1) -> Sequence[torch.Tensor]:
        return low.split([len(down) for down in self.downs], dimension)


class _Adapted(torch.autograd.Function):
    """``x W^T + bias + scaling (x A^T) B^T`` of one layer or several, with W and bias frozen.

    After ``x`` and the scalings come each layer's W, bias, A and B.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scalings: Sequence[float], *tensors: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        low, outputs = Operands(scalings, tensors).forward(x.reshape(-1, x.shape[-1]))
        ctx.save_for_backward(x, low, *tensors)
        ctx.scalings = scalings
        return tuple(output.view(*x.shape[:-1], -1) for output in outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, low, *tensors = ctx.saved_tensors
        to_x, each = Operands(ctx.scalings, tensors).backward(
            x.reshape(-1, x.shape[-1]),
            low,
            [gradient.reshape(-1, gradient.shape[-1]) for gradient in gradients],
            wanted=ctx.needs_input_grad[0],
        )
        return None if to_x is None else to_x.view_as(x), None, *each


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
            layers = self._layers if all(plain(own, x) for own in self._layers) else []
            # One that is called again, or alone.
            layers = layers if layers and layers[0] is layer else [layer]
            if not plain(layer, x):
                return None
            outputs = _Adapted.apply(x, *operands(layers))
            self._waiting, self._x = {id(own): output for own, output in zip(layers, outputs, strict=True)}, x
        output = self._waiting.pop(id(layer))
        if not self._waiting:
            self._x = None
        return output


def plain(layer: Any, x: torch.Tensor) -> bool:
    base, (name, *others) = layer.base_layer, layer.active_adapters
    off = others or layer.merged or layer.disable_adapters
    return not off and x.dtype == base.weight.dtype == layer.lora_A[name].weight.dtype


def operands(layers: Sequence[Any]) -> tuple[Any, ...]:
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
        children = {name: child for name, child in module.named_children() if quickenable(child)}
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


def quickenable(module: torch.nn.Module) -> bool:
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or type(module.base_layer) is not torch.nn.Linear or module.lora_variant:
        return False
    names = module.active_adapters
    frozen = not any(parameter.requires_grad for parameter in module.base_layer.parameters())
    undropped = all(isinstance(module.lora_dropout[name], torch.nn.Identity) for name in names)
    unbiased = all(module.lora_B[name].bias is None for name in names)
    return frozen and undropped and unbiased and len(names) == 1
