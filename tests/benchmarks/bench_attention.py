"""Which attention inside packed rows is fastest here: variable-length kernel, FlexAttention, or text by text.

    python tests/benchmarks/bench_attention.py [--tokens 16384] [--repeats 20] [--heads 32] [--groups 8] [--width 128]

Rows as finetuning packs them (texts as long as critics' data, log-normal,
median 700 tokens), one layer of Llama-3-8B's shape in bfloat16, forward and
backward. One line of JSON per way: milliseconds, TFLOP/s of the causal part
that has to be computed, and the largest difference from text by text. The
first call, compiling included, is told apart. Without a GPU only text by text
runs, in float32.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial

import torch
from training_workload import lengths

from hpcmaf.training import attention


def flex(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: object, run: Callable) -> torch.Tensor:
    """FlexAttention with a mask of blocks, in the layout of the others: [1, T, heads, width]."""
    return run(query, key, value, block_mask=mask, enable_gqa=True).transpose(1, 2)


def ways(ends: torch.Tensor, longest: int, cuda: bool) -> dict[str, Callable]:
    """Every way that can run here, as a function of queries, keys and values."""
    found: dict[str, Callable] = {
        "text by text": lambda q, k, v: attention.text_by_text(q, k, v, ends)
    }
    if cuda:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        found["varlen"] = lambda q, k, v: attention.varlen(q, k, v, ends, longest)
        total = int(ends[-1])
        text = torch.repeat_interleave(torch.arange(len(ends) - 1, device=ends.device), ends.diff().long())
        mask = create_block_mask(
            lambda b, h, q, k: (q >= k) & (text[q] == text[k]), None, None, total, total, device=ends.device
        )
        found["flex"] = partial(flex, mask=mask, run=torch.compile(flex_attention))
    return found


def once(way: Callable, parts: list[torch.Tensor], upstream: torch.Tensor) -> list[torch.Tensor]:
    """Output and gradients."""
    leaves = [part.detach().requires_grad_() for part in parts]
    output = way(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tokens", 16384), ("repeats", 20), ("heads", 32), ("groups", 8), ("width", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    sizes = lengths(options.tokens)
    ends = attention.boundaries(sizes, device)["cu_seq_lens_q"]
    torch.manual_seed(0)
    shapes = [(1, heads, sum(sizes), options.width) for heads in (options.heads, options.groups, options.groups)]
    dtype = torch.bfloat16 if cuda else torch.float32
    parts = [torch.randn(shape, device=device).to(dtype) for shape in shapes]
    upstream = torch.randn(shapes[0], device=device).to(dtype).transpose(1, 2)
    # Two products of half of each text's square, forward, and five backward.
    flop = 7 * sum(size**2 for size in sizes) * options.heads * options.width
    expected: list[torch.Tensor] = []
    for name, way in ways(ends, max(sizes), cuda).items():
        marks = [time.time()]
        for _ in range(options.repeats + 1):
            result = once(way, parts, upstream)
            if cuda:
                torch.cuda.synchronize()
            marks.append(time.time())
        expected = expected or result
        seconds = (marks[-1] - marks[1]) / options.repeats
        off = max(float((a.float() - b.float()).abs().max()) for a, b in zip(result, expected, strict=True))
        told = {"ms": round(seconds * 1e3, 3), "tflops": round(flop / seconds / 1e12, 3)}
        told["first_s"] = round(marks[1] - marks[0], 3)
        print(json.dumps({"way": name, "texts": len(sizes), "tokens": sum(sizes), **told, "off": off}), flush=True)


if __name__ == "__main__":
    main()
