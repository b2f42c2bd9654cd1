"""Supervised finetuning: the likelihood of the dataset's own responses."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hpcmaf.training.data import TokenSample
from hpcmaf.training.objective import Objective


class Sft(Objective):
    """The negative log-likelihood of all target tokens over their number; samples may be weighted."""

    def weight(self, batch: Sequence[TokenSample]) -> int:
        """Target tokens."""
        return sum(sample.target_tokens for sample in batch)

    def total(self, part: Sequence[TokenSample]) -> torch.Tensor:
        """Sum over the part's target tokens."""
        if all(sample.signal == 1 for sample in part):
            return self.likelihood(part)[1].sum()
        likelihoods = self.likelihoods(part)
        return -(likelihoods * likelihoods.new_tensor([sample.signal for sample in part])).sum()
