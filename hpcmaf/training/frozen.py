"""The frozen matrices under adapted layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

# By the names that transformers' models give them, in the order of their calls: they read the same input.
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class Frozen(Protocol):
    """Matrices of layers that read one input, however they are stored."""

    def forward(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Each layer's output for ``rows``, ``(n, in)``; the caller's to change."""
        ...

    def backward(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """Gradient of the input, from those of the outputs; the caller's to change."""
        ...


class Stored:
    """Matrices as the checkpoint has them.

    Parameters
    ----------
    layers
        Linear layers.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers

    def forward(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """As :class:`Frozen` says."""
        return [torch.nn.functional.linear(rows, layer.weight, layer.bias) for layer in self.layers]

    def backward(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """As :class:`Frozen` says."""
        total = gradients[0] @ self.layers[0].weight
        for own, layer in zip(gradients[1:], self.layers[1:], strict=True):
            total.addmm_(own, layer.weight)
        return total
