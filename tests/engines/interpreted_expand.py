"""The compact LoRA kernel in Triton's interpreter, against the sums written out: run by ``test_vllm_expand``."""

from __future__ import annotations

from typing import Any

import torch

from hpcmaf.engines.vllm_expand import _KNOWN, CompactExpand

SLOTS = 7
# As vLLM's kernel has them, in its order.
NAMES = [
    *("input_ptr", "lora_ptr", "out_ptr", "M", "N", "K", "token_indices_sorted_by_lora_ids", "num_tokens_per_lora"),
    *("lora_token_start_loc", "lora_ids", "slice_start_loc", "input_d0_stride", "input_d1_stride", "input_d2_stride"),
    *("ls_d0_ptr", "ls_d1_ptr", "ls_d2_ptr", "output_d0_stride", "output_d1_stride", "output_hs_ptr", "BLOCK_M"),
    *("BLOCK_N", "BLOCK_K", "EVEN_K", "ADD_INPUTS", "CAST_TYPE", "SLICE_NUM", "SAME_STRIDE", "USE_GDC", "launch_pdl"),
]


class Plain:
    """vLLM's kernel, which only says that it was wanted."""

    arg_names = NAMES
    wanted = 0

    def __getitem__(self, grid: Any) -> Any:
        def run(*given: Any, **how: Any) -> None:
            self.wanted += 1

        return run


def check(kernel: CompactExpand, sizes: tuple[int, ...], slots: list[int], rank: int = 16, add: bool = True) -> None:
    """One call, as vLLM makes it; every number of the output is looked at."""
    torch.manual_seed(0)
    rows, of_row = len(slots), torch.tensor(slots, dtype=torch.int32)
    order = torch.sort(of_row, stable=True)[1].to(torch.int32)
    found, counts = torch.unique(of_row, sorted=True, return_counts=True)
    ids, tokens, starts = (torch.zeros(SLOTS + 1 + more, dtype=torch.int32) for more in (0, 0, 1))
    ids[:], ids[: len(found)] = -1, found
    tokens[: len(found)], starts[1 : len(found) + 1] = counts, counts.cumsum(0)
    given, out = torch.randn(len(sizes), rows, rank), torch.randn(rows, sum(sizes))
    weights = [torch.randn(SLOTS, 1, size, rank) for size in sizes]
    alike = len(set(sizes)) == 1
    right = out.clone()
    begins = [sum(sizes[:part]) for part in range(len(sizes))]
    for part, (begin, size) in enumerate(zip(begins, sizes, strict=True)):
        for row, slot in enumerate(slots):
            if slot >= 0:
                before = out[row, begin : begin + size] if add else 0
                right[row, begin : begin + size] = before + weights[part][slot, 0] @ given[part, row]
    several = len(sizes) > 1
    # fmt: off
    kernel[(1,)](
        given, torch.tensor([w.data_ptr() for w in weights], dtype=torch.uint64) if several else weights[0], out,
        rows, max(sizes), rank, order, tokens, starts, ids,
        torch.tensor(begins, dtype=torch.uint64) if several else 0,
        *given.stride(), 0, 0, 0, *out.stride(), sizes[0] if alike else torch.tensor(sizes),
        64, 256, 16, True, add, True, len(sizes), alike, False, num_warps=4, num_ctas=1, num_stages=2,
        launch_pdl=False,
    )
    # fmt: on
    torch.testing.assert_close(out, right, rtol=1e-5, atol=1e-5)


def main() -> None:
    assert set(NAMES) >= _KNOWN
    kernel = CompactExpand(Plain())
    mixed = [(5 * row) % SLOTS - 1 for row in range(37)]
    check(kernel, (256, 128, 128), mixed)
    check(kernel, (200, 72, 72), mixed)  # blocks that end in the middle
    check(kernel, (300, 300), mixed)
    check(kernel, (384,), mixed, rank=32)
    check(kernel, (256,), [-1, 0, 0, 3, 5], add=False)
    check(kernel, (256, 256), [-1] * 4)
    check(kernel, (256,), [2] * 70)
    assert kernel.plain.wanted == 0
    try:
        check(kernel, (256,), mixed, rank=8)  # of which tensor cores take no product
    except AssertionError:
        assert kernel.plain.wanted == 1
    else:
        raise SystemExit("a rank of 8 is computed here")
    print("8 calls")


if __name__ == "__main__":
    main()
