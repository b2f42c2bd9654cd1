"""Rounding rows to fp8 on a GPU, in one kernel. Imported there only: elsewhere Triton may not be installed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from hpcmaf.training.fp8 import LEAST, TOP, TYPE

# Columns that a program takes at once, and its warps; of rows wider than so many, see bench_fp8.
_WIDE = 8192
_SETTINGS, _WIDE_SETTINGS = (4096, 8), (8192, 16)

# Triton reads annotations as its own, so here there are no others.


@triton.jit
def _part(at, by, columns, width, SCALED: tl.constexpr):
    numbers = tl.load(at + columns, mask=columns < width, other=0.0).to(tl.float32)
    if SCALED:
        numbers *= tl.load(by + columns, mask=columns < width, other=0.0)
    return numbers


@triton.jit
def _largest(at, by, width, SCALED: tl.constexpr, BLOCK: tl.constexpr):
    largest = tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, width, BLOCK):
        numbers = _part(at, by, begin + tl.arange(0, BLOCK), width, SCALED)
        largest = tl.maximum(largest, tl.abs(numbers))
    return tl.max(largest, 0)


@triton.jit
def _store(at, by, to, width, factor, SCALED: tl.constexpr, BLOCK: tl.constexpr):
    for begin in range(0, width, BLOCK):
        columns = begin + tl.arange(0, BLOCK)
        numbers = _part(at, by, columns, width, SCALED) * factor
        # The factor is rounded too, and there is no infinity to go to.
        numbers = tl.minimum(tl.maximum(numbers, -448.0), 448.0)
        tl.store(to + columns, numbers.to(tl.float8e4nv), mask=columns < width)


@triton.jit
def _round(
    a,
    b,
    c,
    by,
    to,
    scales,
    stride_a,
    stride_b,
    stride_c,
    width_a,
    width_b,
    width_c,
    least,
    top,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
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
    """See :func:`hpcmaf.training.fp8.round_rows`."""
    parts = [part if part.stride(-1) == 1 else part.contiguous() for part in parts]
    count, widths = len(parts[0]), [part.shape[1] for part in parts]
    rounded = torch.empty(count, sum(widths), dtype=TYPE, device=parts[0].device)
    scales = torch.empty(count, 1, dtype=torch.float32, device=parts[0].device)
    if not count:
        return rounded, scales
    block, warps = _SETTINGS if max(widths) <= _WIDE else _WIDE_SETTINGS
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
            block,
            num_warps=warps,
        )
    return rounded, scales
