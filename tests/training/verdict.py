"""A model whose texts can share a row in some processes alone; prints what each of them makes of it.

To be run by torchrun: ``python -m torch.distributed.run ... -m tests.training.verdict``.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from hpcmaf.training import packing as packable
from hpcmaf.training.process import Process
from tests.training.test_packing import leaky, sample, tiny


def main() -> None:
    """Attention leaks between texts in process 1, as a kernel that only its GPU has might let it."""
    dist.init_process_group("gloo")
    if os.environ["RANK"] == "1":
        packable.packed_attention = leaky
    model = tiny("llama").train()
    for parameter in model.parameters():
        parameter.data *= 8
    packing = packable.Packing(model, 30)
    packing.check(model, [sample("a", 30), sample("bb", 20)], Process(int(os.environ["RANK"]), 2, torch.device("cpu")))
    print(f"process {os.environ['RANK']} packs: {packing.on}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
