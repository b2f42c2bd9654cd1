"""GRPO (Shao et al. 2024): tokens of responses that did better than their group's others become likelier.

The debates are the rollouts, made by the agent as the job starts, so one pass over the dataset is on-policy but for the
steps within it, which the clipped ratio bounds. Selection has turned rewards into advantages
(:mod:`hpcmaf.selection.balance`). As TRL computes it, with the loss over all target tokens of a step (``bnpo``, or
``dapo`` without accumulation) and no entropy bonus. The divergence is that from the base where adapters are trained;
with all weights trained, from the model as the job starts, as a second one is not kept. Neither store nor dataset has
the rollouts' likelihoods: they are computed before the first step, by the code that computes those in training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hpcmaf.training.attention import to_device
from hpcmaf.training.data import IGNORED, TokenSample
from hpcmaf.training.objective import Objective


class Grpo(Objective):
    """``beta * divergence - min(ratio * advantage, clipped ratio * advantage)`` of target tokens, over their number.

    The divergence from the base is estimated by ``exp(d) - d - 1``, which is never negative, times the ratio, so that
    its gradient is that of the divergence. Measured are that, and the share of tokens that clipping holds.
    """

    measures = ("divergence", "clipped")

    def prepare(self, samples: Sequence[TokenSample]) -> None:
        """Keep the likelihoods of all target tokens in the agent as it starts, and in the base."""
        self._start = self._base = self.evaluate(samples, self._tokens)
        if self._job.start is not None and self._job.tuning == "lora":
            with getattr(self._run, "module", self._run).disable_adapter():
                self._base = self.evaluate(samples, self._tokens)

    def weight(self, batch: Sequence[TokenSample]) -> int:
        """Target tokens."""
        return sum(sample.target_tokens for sample in batch)

    def total(self, part: Sequence[TokenSample]) -> torch.Tensor:
        """Sum over the part's target tokens."""
        now = self._likelihood(part)
        start, base = (
            to_device(torch.cat([tokens[sample.id] for sample in part]), now.device)
            for tokens in (self._start, self._base)
        )
        counts = torch.tensor([sample.target_tokens for sample in part])
        advantages = torch.tensor([sample.signal for sample in part])
        advantages = torch.where(advantages < 0, self._job.minority_weight, 1.0) * advantages
        advantage = to_device(advantages.repeat_interleave(counts), now.device)
        ratio, clip = (now - start).exp(), self._job.grpo_clip
        clipped = ratio.clamp(1 - clip, 1 + clip) * advantage
        gain, apart = torch.minimum(ratio * advantage, clipped), base - now
        divergence = ratio * (apart.exp() - apart - 1)
        self._sums += torch.stack((divergence.detach().sum(), (clipped < ratio * advantage).sum()))
        return (self._job.grpo_beta * divergence - gain).sum()

    def _likelihood(self, part: Sequence[TokenSample]) -> torch.Tensor:
        """Log-likelihood of every target token, text by text."""
        batch, unlikely = self.likelihood(part)
        targets = (batch.labels.flatten() != IGNORED).nonzero().flatten()
        return -unlikely.flatten()[to_device(targets, unlikely.device)]

    def _tokens(self, part: Sequence[TokenSample]) -> Sequence[torch.Tensor]:
        return self._likelihood(part).cpu().split([sample.target_tokens for sample in part])
