"""DeepSpeed's questions about all gradients, asked of all at once, and answered where the gradients are.

Before a step, ZeRO-1 and 2 ask of every gradient whether it is finite, and
for its norm: about 14 small operations each. An adapter on all linear layers
of a model with 32 of them has 448 matrices, so that a GPU is started on 6,000
kernels of a few microseconds, for which it waits longer than they take. Then
the machine waits for the answers, and the GPU for what comes after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from deepspeed import comm as dist

# All together lie in memory once more while they are looked at.
_MOST = 500_000_000


def join_reductions(optimizer: Any) -> bool:
    """Let a ZeRO optimizer look at gradients as one; the same answers, norms to rounding.

    With a fused torch optimizer, nobody waits for the answer: a step with
    gradients that are not finite still changes nothing, but it is the
    kernel that leaves it out, and the schedule goes on; :func:`left_out` counts
    them.

    Parameters
    ----------
    optimizer
        DeepSpeed's. Others than ZeRO-1's and 2's, those with state elsewhere
        than their weights, and those with too much to be copied stay as they are.

    Returns
    -------
    bool
        Whether it now does.
    """
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    if type(optimizer) is not DeepSpeedZeroOptimizer or optimizer.cpu_offload:
        return False
    if sum(parameter.numel() for group in optimizer.bit16_groups for parameter in group) > _MOST:
        return False
    device = optimizer.bit16_groups_flat[0].device

    def norm(gradients: Sequence[torch.Tensor], params: Sequence[torch.Tensor], norm_type: float = 2) -> torch.Tensor:
        # DeepSpeed's own marks what is not finite by a number out of the
        # machine's memory, and a copy from there waits for the GPU. Whoever
        # adds up groups' norms takes both.
        own = [gradient for gradient in gradients if not getattr(gradient, "_zero_padding", False)]
        total = torch.zeros((), device=device)
        for joined in _joined(own[: len(params)]):
            total += torch.linalg.vector_norm(joined.float()).square()
        dist.all_reduce(total, op=dist.ReduceOp.SUM, group=optimizer.dp_process_group)
        return total.sqrt()

    def overflow() -> torch.Tensor:
        count = torch.zeros(1, device=device)
        for gradients in optimizer.averaged_gradients.values():
            for joined in _joined([gradient for gradient in gradients or () if gradient is not None]):
                count += optimizer._has_inf_or_nan(joined)
        return count.bool()

    optimizer.get_grad_norm_direct = norm
    optimizer.has_overflow_partitioned_grads_serial = overflow
    if optimizer.compute_grad_norm and all(group.get("fused") for group in optimizer.optimizer.param_groups):
        _wait_for_nothing(optimizer)
    return True


def left_out(optimizer: Any) -> int:
    """Steps so far that changed nothing, as their gradients were not finite; waits for the GPU."""
    found = getattr(optimizer, "left_out", None)
    return 0 if found is None else int(found) // len(optimizer.bit16_groups)


def _wait_for_nothing(optimizer: Any) -> None:
    """Have the optimizer's kernel leave out what must not be done, as it does for those who scale gradients."""
    inner = optimizer.optimizer
    optimizer.check_grad_overflow = False
    optimizer.left_out = torch.zeros((), device=optimizer.bit16_groups_flat[0].device)

    def clip(gradients: Sequence[torch.Tensor], norm: torch.Tensor) -> None:
        # It is infinity where any gradient is not finite.
        inner.found_inf = (~torch.isfinite(norm)).float()
        optimizer.left_out += inner.found_inf
        scale = optimizer.loss_scale
        if optimizer.clip_grad > 0:
            scale = ((norm / scale + 1e-6) / optimizer.clip_grad).clamp(min=1.0) * scale
        for gradient in gradients:
            gradient.mul_(1.0 / scale)

    optimizer.unscale_and_clip_grads = clip


def _joined(gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """One flat tensor for all, or none for none."""
    return [torch.cat([gradient.flatten() for gradient in gradients])] if gradients else []
