"""Rounding rows to fp8 on a GPU, in one kernel. Imported there only: elsewhere Triton may not be installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from hpcmaf.training.fp8_rows import LEAST, TOP, TYPE

# Columns that a program takes at once.
_BLOCK = 4096
_WARPS = 8


@triton.jit
def _part(at: Any, by: Any, columns: Any, width: Any, SCALED: tl.constexpr) -> Any:
    numbers = tl.load(at + columns, mask=columns < width, other=0.0).to(tl.float32)
    if SCALED:
        numbers *= tl.load(by + columns, mask=columns < width, other=0.0)
    return numbers


@triton.jit
def _largest(at: Any, by: Any, width: Any, SCALED: tl.constexpr, BLOCK: tl.constexpr) -> Any:
    largest = tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, width, BLOCK):
        numbers = _part(at, by, begin + tl.arange(0, BLOCK), width, SCALED)
        largest = tl.maximum(largest, tl.abs(numbers))
    return tl.max(largest, 0)


@triton.jit
def _store(at: Any, by: Any, to: Any, width: Any, factor: Any, SCALED: tl.constexpr, BLOCK: tl.constexpr) -> Any:
    for begin in range(0, width, BLOCK):
        columns = begin + tl.arange(0, BLOCK)
        numbers = _part(at, by, columns, width, SCALED) * factor
        # The factor is rounded too, and there is no infinity to go to.
        numbers = tl.minimum(tl.maximum(numbers, -448.0), 448.0)
        tl.store(to + columns, numbers.to(tl.float8e4nv), mask=columns < width)


@triton.jit
def _round(
    a: Any,
    b: Any,
    c: Any,
    by: Any,
    to: Any,
    scales: Any,
    stride_a: Any,
    stride_b: Any,
    stride_c: Any,
    width_a: Any,
    width_b: Any,
    width_c: Any,
    least: Any,
    top: Any,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> Any:
    row = tl.program_id(0).to(tl.int64)
    a, b, c = a + row * stride_a, b + row * stride_b, c + row * stride_c
    to += row * (width_a + width_b + width_c)
    by_b, by_c = by + width_a, by + width_a + width_b
    largest = _largest(a, by, width_a, SCALED, BLOCK)
    largest = tl.maximum(largest, _largest(b, by_b, width_b, SCALED, BLOCK))
    largest = tl.maximum(largest, _largest(c, by_c, width_c, SCALED, BLOCK))
    scale = tl.maximum(largest, least) / top
    tl.store(scales + row, scale)
    # The row was just read, so its second reading comes from the cache.
    factor = 1.0 / scale
    _store(a, by, to, width_a, factor, SCALED, BLOCK)
    _store(b, by_b, to + width_a, width_b, factor, SCALED, BLOCK)
    _store(c, by_c, to + width_a + width_b, width_c, factor, SCALED, BLOCK)


def round_rows(parts: Sequence[torch.Tensor], by: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`hpcmaf.training.fp8_rows.round_rows`."""
    parts = [part if part.stride(-1) == 1 else part.contiguous() for part in parts]
    count, widths = len(parts[0]), [part.shape[1] for part in parts]
    rounded = torch.empty(count, sum(widths), dtype=TYPE, device=parts[0].device)
    scales = torch.empty(count, 1, dtype=torch.float32, device=parts[0].device)
    if not count:
        return rounded, scales
    three = [*parts, parts[0], parts[0]][:3]
    with torch.cuda.device(rounded.device):
        _round[(count,)](
            *three,
            scales if by is None else by,
            rounded,
            scales,
            *[part.stride(0) for part in three],
            *[*widths, 0, 0][:3],
            LEAST,
            TOP,
            by is not None,
            _BLOCK,
            num_warps=_WARPS,
        )
    return rounded, scales
