"""What libraries do too slowly, and how to live without it: each entry can be deleted, and jobs only start later."""

from __future__ import annotations

from collections import defaultdict


def without_shared_memory_collectives() -> None:
    """Keep DeepSpeed from compiling shared-memory collectives for CPUs: a minute before a machine's first job.

    Asking DeepSpeed whether they could be built calls the compiler, too; gloo's
    are quick enough, and no setting chooses them
    (https://github.com/deepspeedai/DeepSpeed/issues/7625). For DeepSpeed from
    0.14.2, which brought them, to 0.19.
    """
    import deepspeed

    # Its list of what can be compiled here, found out when it is first read, and open to edits.
    vars(deepspeed.ops).setdefault("__compatible_ops__", defaultdict(bool))["deepspeed_shm_comm"] = False
