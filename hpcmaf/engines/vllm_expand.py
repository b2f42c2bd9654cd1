"""vLLM's LoRA kernel from the rank up to the output's size, on a grid with no more blocks than have work.

Imported on GPUs only: elsewhere Triton may not be installed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import triton
import triton.language as tl

# Of the slots of rank that tensor cores take whole.
_RANKS = (16, 32, 64, 128)
# The best of a dozen on an H100, from 32 rows to 8,192 (bench_lora_kernels).
_ROWS, _COLUMNS, _WARPS = 16, 128, 4
# Arguments of vLLM's kernel that are passed on.
_KNOWN = {
    *("input_ptr", "lora_ptr", "out_ptr", "M", "N", "K", "token_indices_sorted_by_lora_ids", "num_tokens_per_lora"),
    *("lora_token_start_loc", "lora_ids", "slice_start_loc", "input_d0_stride", "input_d1_stride", "input_d2_stride"),
    *("output_d0_stride", "output_d1_stride", "output_hs_ptr", "ADD_INPUTS", "SLICE_NUM", "SAME_STRIDE", "USE_GDC"),
}

# Triton reads annotations as its own, so here there are no others.


@triton.jit
def _block(
    out,
    weight,
    multiplied,
    row,
    there,
    columns,
    own,
    out_row,
    RANK: tl.constexpr,
    ADD: tl.constexpr,
    WHOLE: tl.constexpr,
):
    at = out + row[:, None] * out_row + columns[None, :]
    weight += columns[None, :] * RANK + tl.arange(0, RANK)[:, None]
    if WHOLE:
        mask = there[:, None]
        b = tl.load(weight)
    else:
        inside = columns[None, :] < own
        mask = there[:, None] & inside
        b = tl.load(weight, mask=inside, other=0.0)
    if ADD:
        # Asked for before the product, as there is most of it.
        before = tl.load(at, mask=mask, other=0.0)
        made = tl.dot(multiplied.to(b.dtype), b).to(out.dtype.element_ty) + before
    else:
        made = tl.dot(multiplied.to(b.dtype), b).to(out.dtype.element_ty)
    tl.store(at, made, mask=mask)


# Numbers of rows come and go, and are not worth a kernel each.
@triton.jit(do_not_specialize=["tiles"])
def _expand(
    inputs,
    weights,
    out,
    width,
    by_slot,
    counts,
    starts,
    slots,
    begins,
    by_slice,
    by_row,
    out_row,
    widths,
    slots_count,
    tiles,
    RANK: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SLICES: tl.constexpr,
    SAME: tl.constexpr,
    ADD: tl.constexpr,
    EVEN: tl.constexpr,
):
    part = tl.program_id(1)
    tile = tl.program_id(0) % tiles
    column = (tl.program_id(0) // tiles) * BLOCK_N
    own = width
    if not SAME:
        own = tl.load(widths + part).to(tl.int32)
        if column >= own:
            return
    # Which slot this tile's rows have: they lie side by side, and each slot has tiles of its own.
    each = tl.arange(0, SLOTS)
    slot = tl.load(slots + each, mask=each < slots_count, other=-1)
    count = tl.load(counts + each, mask=each < slots_count, other=0)
    start = tl.load(starts + each, mask=each < slots_count, other=0)
    count = tl.where(slot < 0, 0, count)
    wanted = (count + BLOCK_M - 1) // BLOCK_M
    end = tl.cumsum(wanted, 0)
    here = (tile < end) & (tile >= end - wanted)
    number = tl.sum(tl.where(here, count, 0), 0)
    if number == 0:
        return
    offset = (tile - tl.sum(tl.where(here, end - wanted, 0), 0)) * BLOCK_M
    first = tl.sum(tl.where(here, start, 0), 0) + offset
    slot = tl.sum(tl.where(here, slot, 0), 0)
    place = tl.arange(0, BLOCK_M)
    there = place < number - offset
    row = tl.load(by_slot + first + place, mask=there, other=0)
    if SLICES == 1:
        out += begins
        weight = weights
    else:
        out += tl.load(begins + part).to(tl.int32)
        weight = tl.load(weights + part).to(tl.pointer_type(out.dtype.element_ty))
    # vLLM sees to it that a slot's matrix lies in one piece, a column's ranks side by side.
    weight += (slot * own).to(tl.int64) * RANK
    columns = column + tl.arange(0, BLOCK_N)
    multiplied = tl.load(inputs + part * by_slice + row[:, None] * by_row + tl.arange(0, RANK)[None, :])
    # Without bounds a seventh faster, and faster still where nobody asks.
    if EVEN:
        _block(out, weight, multiplied, row, there, columns, own, out_row, RANK, ADD, True)
    elif column + BLOCK_N <= own:
        _block(out, weight, multiplied, row, there, columns, own, out_row, RANK, ADD, True)
    else:
        _block(out, weight, multiplied, row, there, columns, own, out_row, RANK, ADD, False)


class CompactExpand:
    """Stands in for vLLM's kernel, with the arguments that it gets, and leaves to it what it is not made for.

    Parameters
    ----------
    plain
        vLLM's.

    Raises
    ------
    ValueError
        vLLM's kernel is not the one that is known.

    Notes
    -----
    vLLM starts blocks for all rows of a step once for every slot, of which
    all but one part leave at once; here each slot has the blocks that its rows
    fill. A block asks for the output before it multiplies. The numbers are the
    same.
    """

    def __init__(self, plain: Any) -> None:
        self.plain, self.names = plain, list(plain.arg_names)
        missing = _KNOWN - set(self.names)
        if missing:
            raise ValueError(f"vLLM's kernel has no {min(missing)}")

    def __getitem__(self, grid: Any) -> Any:
        return partial(self._run, grid)

    def _run(self, grid: Any, *given: Any, **how: Any) -> None:
        of = dict(zip(self.names, given, strict=False)) | how
        together = of["input_d2_stride"] == of["output_d1_stride"] == 1
        if of["K"] not in _RANKS or not together or of.get("USE_GDC"):
            self.plain[grid](*given, **how)
            return
        tiles = triton.cdiv(of["M"], _ROWS) + len(of["lora_ids"])
        _expand[(tiles * triton.cdiv(of["N"], _COLUMNS), of["SLICE_NUM"])](
            of["input_ptr"],
            of["lora_ptr"],
            of["out_ptr"],
            of["N"],
            of["token_indices_sorted_by_lora_ids"],
            of["num_tokens_per_lora"],
            of["lora_token_start_loc"],
            of["lora_ids"],
            of["slice_start_loc"],
            of["input_d0_stride"],
            of["input_d1_stride"],
            of["output_d0_stride"],
            of["output_hs_ptr"],
            len(of["lora_ids"]),
            tiles,
            of["K"],
            triton.next_power_of_2(len(of["lora_ids"])),
            _ROWS,
            _COLUMNS,
            of["SLICE_NUM"],
            of["SAME_STRIDE"],
            of["ADD_INPUTS"],
            of["SAME_STRIDE"] and of["N"] % _COLUMNS == 0,
            num_warps=_WARPS,
        )
