"""Gradients on their way from a backward pass to its step, without two copies of each.

After a backward pass ZeRO-1 and 2 bring every gradient into a bucket, which
the processes reduce, and out of it into memory of its own. An adapter on all
linear layers of a model with 32 of them has 448, and these 900 copies of two
microseconds come last. A GPU takes about a thousand kernels in advance; when
those that it has in advance are copies, it has done them before the machine
has prepared the step and told of the next forward pass, and waits for all that.
"""

from __future__ import annotations

from typing import Any

from deepspeed import comm as dist


def spare_copies(optimizer: Any) -> bool:
    """Let a ZeRO optimizer step on gradients where they are; the same numbers.

    A process that is alone has nobody to reduce with, and steps on what
    autograd made. Several step on their parts of the bucket, which is nobody
    else's once it was reduced: the next backward pass has one of its own.

    Parameters
    ----------
    optimizer
        DeepSpeed's. Others than ZeRO-1's and 2's, those with state or sums of
        gradients elsewhere, and those with more than one bucket stay as they are.

    Returns
    -------
    bool
        Whether it now does.
    """
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    if type(optimizer) is not DeepSpeedZeroOptimizer or optimizer.cpu_offload or optimizer.overlap_comm:
        return False
    if optimizer.use_grad_accum_attribute or any(
        optimizer._use_compact_grad_partition_buffer(group) for group in range(len(optimizer.bit16_groups))
    ):
        return False
    if dist.get_world_size(group=optimizer.dp_process_group) == 1:
        optimizer.reduce_ready_partitions_and_remove_grads = lambda param, group: None
        optimizer.reduce_ipg_grads = lambda comm_dtype=None: None
        return True
    in_one = sum(p.numel() for group in optimizer.bit16_groups for p in group) <= optimizer.reduce_bucket_size
    if in_one and optimizer.contiguous_gradients:
        optimizer.copy_grads_in_partition = lambda param, group=None: None
        return True
    return False
