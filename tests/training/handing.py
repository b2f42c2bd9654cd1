"""Steps of several backward passes with DeepSpeed's own copies of gradients and without; rank 0 writes JSON.

To be run by torchrun: ``python -m torch.distributed.run ... -m tests.training.handing OUT``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import Any

import torch

from hpcmaf.imports.swap import instead
from hpcmaf.training import engine as ds
from hpcmaf.training.spec import FinetuneJob
from hpcmaf.training.unneeded import skip_inductor
from tests.training.stepping import Counting
from tests.training.test_adapters import adapted
from tests.training.test_packing import sample

PASSES = 2


def stepped(stage: int, dtype: str, spared: bool) -> dict[str, Any]:
    """Three steps of as many backward passes each, of other texts in each process."""
    processes, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    kind = getattr(torch, dtype)
    job = FinetuneJob("b", "d", "o", device="cpu", processes=processes, zero_stage=stage, dtype=dtype)
    with instead(ds, "spare_copies", ds.spare_copies if spared else lambda optimizer: False):
        engine = ds.start(adapted().to(kind), job, kind, 4, cuda=False)
    copies, norms = 0, []
    for step in range(3):
        for at in range(PASSES):
            ids = torch.tensor([sample("ab"[at], 12 + 3 * step + 5 * rank).input_ids])
            loss = engine(input_ids=ids, labels=ids).loss
            engine.set_gradient_accumulation_boundary(at == PASSES - 1)
            with Counting() as counting:
                engine.backward(loss, scale_wrt_gas=False)
            copies += counting.seen["aten.copy_.default"]
        engine.step()
        norms.append(float(engine.optimizer._global_grad_norm))
    digest = hashlib.sha256()
    for _, tensor in sorted(ds.trained_weights(engine, adapter=True).items()):
        digest.update(tensor.contiguous().numpy().tobytes())
    return {"weights": digest.hexdigest(), "norms": norms, "copies": copies}


if __name__ == "__main__":
    skip_inductor()
    ds.connect(cuda=False)
    made = {
        f"{stage} {dtype} {spared}": stepped(stage, dtype, spared)
        for stage in (1, 2)
        for dtype in ("bfloat16", "float32")
        for spared in (False, True)
    }
    if os.environ["RANK"] == "0":
        with open(sys.argv[1], "w") as sink:
            json.dump(made, sink)
