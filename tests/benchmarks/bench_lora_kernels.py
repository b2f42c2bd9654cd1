"""vLLM's LoRA kernels with its own settings, with ours, and with the best of many, on this GPU.

    python -m tests.benchmarks.bench_lora_kernels [shrink] [expand] [--search] [--out FILE]

The matrices of an 8B model with rank-16 adapters: six of them and the base,
mixed row by row up to 1,024 rows, prompt by prompt beyond. A call is timed as
it runs in a recorded graph, 16 in a row with changing adapters, so that these
come from memory and not from the cache. A line per shape and number of rows,
in microseconds. With ``--search`` every setting is tried (about a minute on 16
cores, most of it compiling), and those found are written to FILE.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpcmaf.engines.vllm_kernels import EXPAND, SHRINK, expand_setting, shrink_setting

RANK, ADAPTERS, CALLS, COPIES = 16, 6, 16, 8
# Hidden size and projections in one matrix; sizes of the projections.
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "shrink": [(4096,) * 3, (4096,), (4096,) * 2, (14336,)],
    "expand": [(4096, 1024, 1024), (4096,), (14336, 14336)],
}
_COMPILERS = 12
# Sums of rounded products taken in another order.
_TOLERANCE = 0.02


def settings(op: str) -> Iterator[dict[str, Any]]:
    """All that are tried."""
    if op == "shrink":
        for m, k, split, stages in itertools.product((16, 32, 64), (64, 128, 256), (2, 4, 8, 16, 32), (2, 3)):
            if k * split <= 4096:
                yield shrink_setting(m, k, split, stages)
        return
    for m, n in itertools.product((16, 32, 64, 128), (64, 128, 256, 512)):
        if 1024 <= m * n <= 128 * 256:
            yield expand_setting(m, n)


def use(setting: dict[str, Any]) -> None:
    """Have vLLM's kernels take this setting from now on."""
    from vllm.lora.ops.triton_ops import lora_expand_op, lora_shrink_op

    for module in (lora_shrink_op, lora_expand_op):
        module.get_lora_op_configs = lambda *_, **__: setting


class Call:
    """One of vLLM's two kernels on tensors of one shape."""

    def __init__(self, op: str, sizes: tuple[int, ...], rows: int) -> None:
        import torch
        from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta

        torch.manual_seed(0)
        self.op = op
        meta = LoRAKernelMeta.make(ADAPTERS + 1, rows, "cuda")
        if rows <= 1024:
            slots = torch.randint(-1, ADAPTERS, (rows,), dtype=torch.int32)
        else:
            slots = torch.tensor([0, 2, 4, -1, 1, 3, 5, 3], dtype=torch.int32).repeat_interleave(rows // 8)
        meta.prepare_tensors(slots.cuda())
        self.meta = meta.meta_args(rows, False)

        def drawn(*shape: int, dtype: Any = torch.bfloat16) -> Any:
            return torch.randn(shape, device="cuda", dtype=dtype)

        if op == "shrink":
            self.given = drawn(rows, sizes[0])
            self.out = torch.zeros(len(sizes), rows, RANK, device="cuda")
        else:
            self.given = drawn(len(sizes), rows, RANK, dtype=torch.float32)
            self.out = torch.zeros(rows, sum(sizes), device="cuda", dtype=torch.bfloat16)
        inner = (lambda size: (RANK, size)) if op == "shrink" else (lambda size: (size, RANK))
        self.weights = [[drawn(ADAPTERS + 2, 1, *inner(size)) * 0.02 for size in sizes] for _ in range(COPIES)]

    def __call__(self, copy: int = 0) -> None:
        from vllm.lora.ops.triton_ops import lora_expand_op, lora_shrink_op

        if self.op == "shrink":
            lora_shrink_op._lora_shrink(self.given, self.weights[copy], self.out, *self.meta, 1.0)
        else:
            lora_expand_op._lora_expand(self.given, self.weights[copy], self.out, *self.meta, add_inputs=True)

    def answer(self) -> Any:
        """What one call computes."""
        self.out.zero_()
        self()
        return self.out.float().clone()

    def microseconds(self) -> float:
        """Of one call in a graph, the best of three."""
        import torch

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for number in range(CALLS):
                self(number % COPIES)
        graph.replay()
        best = float("inf")
        for _ in range(3):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            best = min(best, begin.elapsed_time(end) * 1e3 / CALLS)
        return best


def compiled(op: str, part: int) -> None:
    """Compile a share of all settings, so that timing finds them done."""
    import torch

    for sizes in SHAPES[op]:
        call = Call(op, sizes, 64)
        for setting in list(settings(op))[part::_COMPILERS]:
            use(setting)
            call()
    torch.cuda.synchronize()


def measure(op: str, sizes: tuple[int, ...], rows: int, search: bool) -> dict[str, Any]:
    """Microseconds with vLLM's setting, ours, and the best."""
    from vllm.lora.ops.triton_ops import lora_expand_op, utils

    from hpcmaf.engines.vllm_expand import CompactExpand

    call = Call(op, sizes, rows)
    theirs = utils.get_lora_op_configs.__wrapped__(op, ADAPTERS + 2, rows, max(sizes), RANK, len(sizes), True)
    ours = shrink_setting(*SHRINK[rows]) if op == "shrink" else expand_setting(*EXPAND[rows])
    plain = lora_expand_op._lora_expand_kernel
    use(theirs)
    right = call.answer()
    took = []
    for at, setting in enumerate((theirs, ours, *(settings(op) if search else ()))):
        use(setting)
        lora_expand_op._lora_expand_kernel = CompactExpand(plain) if at == 1 else plain
        if ((call.answer() - right).abs().max() / right.abs().max()).item() > _TOLERANCE:
            raise SystemExit(f"{op} {sizes}, {rows} rows: computes something else with {setting}")
        took.append((call.microseconds(), setting))
    lora_expand_op._lora_expand_kernel = plain
    found: dict[str, Any] = {"op": op, "sizes": sizes, "rows": rows, "vllm": took[0][0], "ours": took[1][0]}
    if search:
        found["best"], found["setting"] = min(took[2:], key=lambda one: one[0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", choices=["shrink", "expand", []], default=[])
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = []
    for op in options.ops or list(SHAPES):
        if options.search:
            with multiprocessing.get_context("spawn").Pool(_COMPILERS) as pool:
                pool.starmap(compiled, [(op, part) for part in range(_COMPILERS)])
        sums: dict[int, list[float]] = {}
        for sizes in SHAPES[op]:
            for rows in SHRINK:
                found.append(measure(op, sizes, rows, options.search))
                print(json.dumps(found[-1]), flush=True)
                kept = sums.setdefault(rows, [0.0, 0.0])
                kept[0], kept[1] = kept[0] + found[-1]["vllm"], kept[1] + found[-1]["ours"]
        for rows, (theirs, ours) in sums.items():
            print(f"{op} {rows} rows: {theirs:.1f} us a layer, ours {ours:.1f}, {theirs / ours:.2f} times faster")
    if options.out:
        options.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
