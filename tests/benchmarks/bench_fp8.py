"""Products with a frozen base on a GPU, in bfloat16 and in fp8: how long, how far from one another.

    python -m tests.benchmarks.bench_fp8 [--tokens 11104]

The linear layers of Llama-3-8B's shape that read one input, as
``training.quantize: fp8`` multiplies with them, forward and backward, rounding
included; the rounding alone; what is left of an adapted layer, which stays
bfloat16. Before that, the kernel's numbers against PyTorch's own operations.
One line of JSON for each; milliseconds, and TFLOP/s of the products.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch

from hpcmaf.training.adapters import Stored
from hpcmaf.training.fp8 import Rounded, round_base, round_rows

LAYERS = {
    "queries, keys, values": (4096, {"q_proj": 4096, "k_proj": 1024, "v_proj": 1024}),
    "attention's output": (4096, {"o_proj": 4096}),
    "gate, up": (4096, {"gate_proj": 14336, "up_proj": 14336}),
    "down": (14336, {"down_proj": 4096}),
}


def family(width: int, outs: dict[str, int]) -> Any:
    """A module with those layers, as a checkpoint has them."""
    module: Any = torch.nn.Module()
    for name, out in outs.items():
        layer = torch.nn.Linear(width, out, bias=False, device="cuda", dtype=torch.bfloat16)
        setattr(module, name, layer.requires_grad_(False))
    module.get_output_embeddings = lambda: None
    return module


def spent(work: Callable[[], object], times: int = 10) -> float:
    """Milliseconds of one."""
    for _ in range(3):
        work()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / times


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Distance in parts of what is expected."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def proven() -> dict[str, float]:
    """The kernel beside PyTorch's operations on a CPU: share of numbers that differ, of scales that do."""
    torch.manual_seed(0)
    parts = [torch.randn(300, width, dtype=torch.bfloat16) for width in (4096, 1024, 5000)]
    by = torch.rand(sum(part.shape[1] for part in parts))
    parts[0][7] = parts[1][7] = parts[2][7] = 0
    result = {}
    for name, factors in (("plain", None), ("scaled", by)):
        numbers, scales = round_rows([part.cuda() for part in parts], None if factors is None else factors.cuda())
        expected, expected_scales = round_rows(parts, factors)
        result[f"{name}: numbers"] = float((numbers.cpu().float() != expected.float()).float().mean())
        result[f"{name}: off"] = off(numbers.cpu().float() * scales.cpu(), expected.float() * expected_scales)
        result[f"{name}: scales"] = off(scales.cpu(), expected_scales)
    return result


def measured(name: str, count: int) -> dict[str, Any]:
    """Both ways with the layers of one name."""
    width, outs = LAYERS[name]
    module = family(width, outs)
    layers = [getattr(module, own) for own in outs]
    rows = torch.randn(count, width, device="cuda", dtype=torch.bfloat16)
    gradients = [torch.randn(count, out, device="cuda", dtype=torch.bfloat16) for out in outs.values()]
    stored = Stored(layers)
    forward, backward = stored.forward(rows), stored.backward(gradients)
    times = {"forward": spent(lambda: stored.forward(rows)), "backward": spent(lambda: stored.backward(gradients))}
    round_base(module, torch.device("cuda"))
    rounded = Rounded(layers)
    found = {
        "forward off": max(map(off, rounded.forward(rows), forward)),
        "backward off": off(rounded.backward(gradients), backward),
    }
    times |= {
        "fp8 forward": spent(lambda: rounded.forward(rows)),
        "fp8 backward": spent(lambda: rounded.backward(gradients)),
        "rounding the input": spent(lambda: round_rows([rows])),
        "rounding gradients": spent(lambda: round_rows(gradients, layers[0].matrices.scales)),
    }
    low = torch.randn(count, 16, device="cuda", dtype=torch.bfloat16)
    ups = [torch.randn(out, 16, device="cuda", dtype=torch.bfloat16) for out in outs.values()]
    each = list(zip(forward, ups, gradients, strict=True))
    times |= {
        "adapters forward": spent(lambda: [output.addmm_(low, up.T) for output, up, _ in each]),
        "adapters backward": spent(lambda: [(own @ up, own.T @ low) for _, up, own in each] + [low.T @ rows]),
    }
    flop = 2 * count * width * sum(outs.values())
    ways = ("forward", "backward", "fp8 forward", "fp8 backward")
    found |= {f"{way} ms": times[way] for way in times} | {f"{way} TFLOP/s": flop / times[way] / 1e9 for way in ways}
    return {"layers": name, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=11104)
    options = parser.parse_args()
    tell({"card": torch.cuda.get_device_name(), "torch": torch.__version__})
    tell(proven())
    for name in LAYERS:
        tell(measured(name, options.tokens))


def tell(found: dict[str, Any]) -> None:
    """One line."""
    print(json.dumps({key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in found.items()}), flush=True)


if __name__ == "__main__":
    main()
