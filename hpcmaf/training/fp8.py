"""A frozen base whose matrices, and what is multiplied with them, are rounded to fp8.

Hopper's tensor cores multiply fp8 twice as fast as bfloat16, and of an adapter's training nearly all arithmetic is
products with frozen matrices, forward and backward. Each row of a matrix has one scale, and so has each token; products
of either adapter matrix, sums and everything else stay in the type that the job computes in. It is what torchao calls
row-wise scaling (all of e4m3), without its third product, which frozen matrices do not have. On an H100, an 8B model:
21,748 tokens/s instead of 16,482 in bfloat16.

Adapters learn on the rounded base, and are served on whatever base the engine has. Elsewhere than on such GPUs the same
numbers are multiplied in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import ScalingType, scaled_mm

from hpcmaf.errors import ConfigError
from hpcmaf.training.model import inner_model

TYPE = torch.float8_e4m3fn
# The largest number it has.
TOP = 448.0
# A row of zeros needs some scale too.
LEAST = 1e-12
# By the names that transformers' models give them, in the order of their calls: they read the same input.
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
# Sides of matrices are whole multiples of it, or cuBLAS has no fp8 for them.
_SIDE = 16
# Ada's and Hopper's compute capabilities are the first with fp8.
_ABLE = (8, 9)


def round_rows(parts: Sequence[torch.Tensor], by: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Round rows to e4m3, scaled so that the largest of each row becomes the largest there is.

    Parameters
    ----------
    parts, by
        One to three matrices ``(n, width)``, taken as one beside another, and
        ``(widths' sum,)`` that each column is multiplied with first.

    Returns
    -------
    tuple
        The rounded numbers ``(n, widths' sum)``, and float32 scales ``(n, 1)``; their product is what was rounded.
    """
    if parts[0].is_cuda:
        # PyTorch's own operations would go through memory six times.
        from hpcmaf.training.fp8_triton import round_rows as by_kernel

        return by_kernel(parts, by)
    joined = torch.cat([part.float() for part in parts], 1)
    if by is not None:
        joined *= by
    scales = joined.abs().amax(1, keepdim=True).clamp_(min=LEAST) / TOP
    return (joined / scales).clamp_(-TOP, TOP).to(TYPE), scales


class Matrices:
    """Rounded matrices of layers that read one input.

    ``rows`` has each one's numbers ``(out, in)``, ``scales`` float32 for all their rows one after another, ``columns``
    all numbers once more, ``(in, outs' sum)``: fp8 products want both sides stored along what is added up, which
    backward is the other.
    """

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        each = [round_rows([weight]) for weight in weights]
        self.rows = [rows for rows, _ in each]
        self.scales = torch.cat([scales[:, 0] for _, scales in each])
        # As bytes: not all that is done to numbers is done to these.
        joined = torch.cat([rows.view(torch.uint8) for rows in self.rows])
        self.columns = joined.T.contiguous().view(TYPE)
        self.ones = torch.ones(1, len(self.columns), device=self.columns.device)
        ends = torch.tensor([len(rows) for rows in self.rows]).cumsum(0).tolist()
        self.spans = [slice(end - len(rows), end) for end, rows in zip(ends, self.rows, strict=True)]


class Fp8Linear(torch.nn.Linear):
    """A frozen linear layer with a rounded matrix, made of a plain one by :func:`round_base`.

    Its ``weight`` is empty, so that code that reads it unaware fails by its shape. Its numbers are ``matrices[at]``, a
    plain attribute: what casts a model's parameters and buffers would cast these too.
    """

    matrices: Matrices
    at: int

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As the plain layer's, with both sides rounded."""
        return _Product.apply(input, Rounded([self]))


class Rounded:
    """Rounded layers that read one input, as :class:`hpcmaf.training.lora_fused.Stored` has others."""

    def __init__(self, layers: Sequence[Fp8Linear]) -> None:
        self.layers = layers
        matrices = layers[0].matrices
        whole = [layer.at for layer in layers] == list(range(len(matrices.rows)))
        self._together = whole and all(layer.matrices is matrices for layer in layers)

    def forward(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Each layer's output for ``rows``, ``(n, in)``."""
        rounded, scales = round_rows([rows])
        outputs = []
        for layer in self.layers:
            own, at = layer.matrices, layer.at
            output = _multiply(rounded, scales, own.rows[at].T, own.scales[None, own.spans[at]], rows.dtype)
            outputs.append(output if layer.bias is None else output.add_(layer.bias))
        return outputs

    def backward(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """Gradient of the input, from each output's."""
        if self._together:
            return _backward(self.layers[0].matrices, slice(None), gradients)
        total, *others = (
            _backward(layer.matrices, layer.matrices.spans[layer.at], [gradient])
            for layer, gradient in zip(self.layers, gradients, strict=True)
        )
        for own in others:
            total += own
        return total


def _backward(matrices: Matrices, span: slice, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    # The matrix's scales belong to what is added up here, so they go to the other side before it is rounded.
    rounded, scales = round_rows(gradients, by=matrices.scales[span])
    return _multiply(rounded, scales, matrices.columns[:, span].T, matrices.ones, gradients[0].dtype)


def _multiply(
    a: torch.Tensor, a_scales: torch.Tensor, b: torch.Tensor, b_scales: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """``(a * a_scales) @ (b * b_scales)``; ``a`` is stored by rows, ``b`` by columns."""
    if a.is_cuda and dtype == torch.bfloat16:
        # The faster of two ways of adding up, as torchao has it for outputs and inputs' gradients.
        by_rows = ScalingType.RowWise
        return scaled_mm(a, b, a_scales, by_rows, b_scales, by_rows, output_dtype=dtype, use_fast_accum=True)
    return (a.float() @ b.float()).mul_(a_scales).mul_(b_scales).to(dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layers: Rounded) -> torch.Tensor:
        ctx.layers = layers
        (output,) = layers.forward(x.reshape(-1, x.shape[-1]))
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        to_x = ctx.layers.backward([gradient.reshape(-1, gradient.shape[-1])])
        return to_x.view(*gradient.shape[:-1], -1), None


def round_base(model: torch.nn.Module, device: torch.device) -> int:
    """Round the matrices of a model's frozen linear layers, all but those that make logits, and put them on a device.

    Returns how many parameters are now rounded, those of an earlier call
    included; the model may have an adapter or none.

    Raises
    ------
    ConfigError
        The GPU has no fp8, or the model no matrix that could be rounded.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _ABLE:
        name = torch.cuda.get_device_name(device)
        raise ConfigError(f"training.quantize: {name} cannot multiply fp8 (Ada, Hopper and later can); leave it out")
    for layers in _families(model):
        matrices = Matrices([layer.weight.detach().to(device) for layer in layers])
        for at, layer in enumerate(layers):
            empty = layer.weight.new_empty((0, layer.in_features))
            layer.weight = torch.nn.Parameter(empty, requires_grad=False)
            # For those who count parameters.
            layer.weight.rounded = layer.in_features * layer.out_features
            layer.__class__, layer.matrices, layer.at = Fp8Linear, matrices, at
    count = sum(getattr(parameter, "rounded", 0) for parameter in model.parameters())
    if not count:
        raise ConfigError(
            f"training.quantize: no frozen linear layer here whose sides are multiples of {_SIDE}; leave it out"
        )
    return count


def _families(model: torch.nn.Module) -> Iterator[list[Any]]:
    """Layers to be rounded, those that read the same input together."""
    inner = inner_model(model)
    logits = inner.get_output_embeddings()
    adapters = {id(layer) for module in model.modules() for layer in _adapters(module)}

    def wanted(layer: Any) -> bool:
        if type(layer) is not torch.nn.Linear or layer is logits or id(layer) in adapters:
            return False
        return not layer.weight.requires_grad and not (layer.in_features % _SIDE or layer.out_features % _SIDE)

    for module in list(model.modules()):
        children = {name: getattr(child, "base_layer", child) for name, child in module.named_children()}
        children = {name: child for name, child in children.items() if wanted(child)}
        for names in SIBLINGS:
            if all(name in children for name in names):
                yield [children.pop(name) for name in names]
        yield from ([child] for child in children.values())


def _adapters(module: Any) -> Iterator[torch.nn.Module]:
    for name in ("lora_A", "lora_B"):
        own = getattr(module, name, None)
        # Another kind of module may mean something else by it.
        yield from own.values() if isinstance(own, torch.nn.ModuleDict) else ()
