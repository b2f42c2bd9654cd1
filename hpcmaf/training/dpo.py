"""Direct preference optimisation (Rafailov et al. 2023): to prefer, of each pair, the chosen answer.

The sigmoid loss alone: no label smoothing, no other divergence than the reverse KL, no reference that moves. The
reference is the model as it starts, adapter included, so its log-probabilities are computed once, before the first
step, and no second model is kept. Both answers of a pair are two texts of one forward pass, packed like any others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import logsigmoid

from hpcmaf.training.data import TokenPair, TokenSample
from hpcmaf.training.objective import Objective


class Dpo(Objective):
    """``-log sigmoid(beta * margin)`` over the number of pairs.

    A pair's margin is by how much more than its reference the model prefers
    the chosen answer to the rejected one, in nats.
    """

    measures = ("reward_margin", "reward_accuracy")

    def prepare(self, samples: Sequence[TokenPair]) -> None:
        """Keep the reference's preferences."""
        self._reference = self.evaluate(samples, lambda part: self._preferences(part).tolist())

    def total(self, part: Sequence[TokenPair]) -> torch.Tensor:
        """Sum over the part's pairs."""
        preferred = self._preferences(part)
        rewards = self._job.dpo_beta * (preferred - preferred.new_tensor([self._reference[pair.id] for pair in part]))
        self._sums += torch.stack((rewards.detach().sum(), (rewards.detach() > 0).sum()))
        return -logsigmoid(rewards).sum()

    def texts(self, samples: Sequence[TokenPair]) -> Sequence[TokenSample]:
        """Both answers of each pair."""
        return [text for pair in samples for text in (pair.chosen, pair.rejected)]

    def _preferences(self, part: Sequence[TokenPair]) -> torch.Tensor:
        """How much likelier each pair's chosen answer is than its rejected one, in nats: float32[pairs]."""
        each = self.likelihoods(part)
        return each[::2] - each[1::2]
