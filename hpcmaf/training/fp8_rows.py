"""Rows of numbers rounded to fp8, each with a scale of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

TYPE = torch.float8_e4m3fn
# The largest number it has.
TOP = 448.0
# A row of zeros needs some scale too.
LEAST = 1e-12


def round_rows(parts: Sequence[torch.Tensor], by: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Round rows to e4m3, scaled so that the largest of each row becomes the largest there is.

    Parameters
    ----------
    parts
        One to three matrices ``(n, width)``, taken as one beside another.
    by
        ``(widths' sum,)``: what each column is multiplied with first.

    Returns
    -------
    tuple
        The rounded numbers ``(n, widths' sum)``, and float32 scales
        ``(n, 1)``; their product is what was rounded.
    """
    if parts[0].is_cuda:
        # PyTorch's own operations would go through memory six times.
        from hpcmaf.training.fp8_kernel import round_rows as by_kernel

        return by_kernel(parts, by)
    joined = torch.cat([part.float() for part in parts], 1)
    if by is not None:
        joined *= by
    scales = joined.abs().amax(1, keepdim=True).clamp_(min=LEAST) / TOP
    return (joined / scales).clamp_(-TOP, TOP).to(TYPE), scales
