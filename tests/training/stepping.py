"""A step of DeepSpeed's, with its own questions about gradients and with ours, in a process of its own; prints JSON."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hpcmaf.training import engine as ds
from hpcmaf.training.reductions import join_reductions, left_out
from hpcmaf.training.spec import FinetuneJob
from hpcmaf.training.unneeded import skip_inductor
from tests.training.test_adapters import adapted
from tests.training.test_packing import sample


class Counting(TorchDispatchMode):
    """Counts operations that would be kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.seen[str(func)] += 1
        return func(*args, **(kwargs or {}))


def stepped(stage: int, joined: bool, fused: bool, damage: float | None) -> dict[str, Any]:
    """Three steps of a tiny adapter; the second may have a gradient that is not finite."""
    model = adapted().bfloat16()
    job = FinetuneJob(base="b", dataset="d", output="o", device="cpu", zero_stage=stage, dtype="bfloat16")
    if not joined:
        ds.join_reductions = lambda optimizer: False
    engine = ds.start(model, job, torch.bfloat16, 4, cuda=fused)
    ds.join_reductions = join_reductions
    norms, skipped, weights = [], [], []
    for step in range(3):
        ids = torch.tensor([sample("a", 20).input_ids])
        loss = engine(input_ids=ids, labels=ids).loss
        engine.set_gradient_accumulation_boundary(True)
        engine.backward(loss)
        optimizer = engine.optimizer
        if damage is not None and step == 1:
            optimizer.averaged_gradients[0][3].view(-1)[5] = damage
        with Counting() as counting:
            engine.step()
        skipped.append(bool(optimizer.overflow))
        norms.append(float(optimizer._global_grad_norm))
        weights.append([p.detach().float().sum().item() for p in model.parameters() if p.requires_grad])
    kernels = sum(counting.seen.values())
    waits = counting.seen["aten._local_scalar_dense.default"]
    found = {"kernels": kernels, "waits": waits, "left_out": left_out(optimizer)}
    return {"norms": norms, "skipped": skipped, "weights": weights, **found}


if __name__ == "__main__":
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    skip_inductor()
    ds.connect(cuda=False)
    made = {
        f"{stage} {joined} {fused} {damage}": stepped(stage, joined, fused, damage)
        for stage in (1, 2)
        for joined in (False, True)
        for fused in (False, True)
        for damage in (None, float("inf"), float("nan"))
    }
    with open(sys.argv[1], "w") as sink:
        json.dump(made, sink)
