"""DeepSpeed's questions about all gradients, asked of all at once instead of one by one.

Before a step, ZeRO-1 and 2 ask of every gradient whether it is finite, and
for its norm: about 17 small operations each. An adapter on all linear layers
of a model with 32 of them has 448 matrices, so that a GPU is started on 7,000
kernels of a few microseconds, for which it waits longer than they take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

# All together lie in memory once more while they are looked at.
_MOST = 500_000_000


def join_reductions(optimizer: Any) -> bool:
    """Let a ZeRO optimizer look at gradients as one; the same answers, norms to rounding.

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
    norm_of = optimizer.get_grad_norm_direct

    def norm(gradients: Sequence[torch.Tensor], params: Sequence[torch.Tensor], norm_type: float = 2) -> torch.Tensor:
        own = [gradient for gradient in gradients if not getattr(gradient, "_zero_padding", False)]
        return norm_of(_joined(own[: len(params)]), params[:1], norm_type)

    def overflow() -> torch.Tensor:
        count = torch.zeros(1, device=optimizer.bit16_groups_flat[0].device)
        for gradients in optimizer.averaged_gradients.values():
            for joined in _joined([gradient for gradient in gradients or () if gradient is not None]):
                count += optimizer._has_inf_or_nan(joined)
        return count.bool()

    optimizer.get_grad_norm_direct = norm
    optimizer.has_overflow_partitioned_grads_serial = overflow
    return True


def _joined(gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """One flat tensor for all, or none for none."""
    return [torch.cat([gradient.flatten() for gradient in gradients])] if gradients else []
