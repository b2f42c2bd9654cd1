"""Direct preference optimisation (Rafailov et al. 2023): to prefer, of each pair, the chosen answer.

The sigmoid loss alone: no label smoothing, no other divergence than the
reverse KL, no reference that moves. The reference is the model as it starts,
adapter included, so its log-probabilities are computed once, before the first
step, and no second model is kept. Both answers of a pair are two texts of one
forward pass, packed like any others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.nn.functional import logsigmoid

from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.data import TokenPair
from hpcmaf.training.objective import Objective
from hpcmaf.training.process import Process


class Dpo(Objective):
    """``-log sigmoid(beta * margin)`` over the number of pairs.

    A pair's margin is by how much more than its reference the model prefers
    the chosen answer to the rejected one, in nats.

    Parameters
    ----------
    run
        The model under DeepSpeed, still as the job starts.
    pairs
        All of the job's. Every process has to come here with the same.
    """

    measures = ("reward_margin", "reward_accuracy")
    texts = 2

    def __init__(
        self, run: torch.nn.Module, job: FinetuneJob, process: Process, pairs: Sequence[TokenPair], *, packed: bool
    ) -> None:
        super().__init__(run, job, process, packed=packed)
        self._sums = torch.zeros(len(self.measures), dtype=torch.float64, device=process.device)
        self._reference = self._references(pairs)

    def weight(self, batch: Sequence[TokenPair]) -> int:
        """Pairs."""
        return len(batch)

    def loss(self, part: Sequence[TokenPair], filler: TokenPair) -> torch.Tensor:
        """Sum over the part's pairs."""
        preferred = self._preferences(part, filler)
        reference = preferred.new_tensor([self._reference[pair.id] for pair in part or [filler]])
        rewards = self._job.dpo_beta * (preferred - reference)
        if not part:
            return rewards.sum() * 0
        self._sums += torch.stack((rewards.detach().sum(), (rewards.detach() > 0).sum()))
        return -logsigmoid(rewards).sum()

    def measured(self) -> list[float]:
        """Sums of margins, times beta, and of right preferences since the last call."""
        sums = self._sums.tolist()
        self._sums.zero_()
        return sums

    def _preferences(self, part: Sequence[TokenPair], filler: TokenPair) -> torch.Tensor:
        """How much likelier each pair's chosen answer is than its rejected one, in nats: float32[pairs]."""
        texts = [text for pair in part or [filler] for text in (pair.chosen, pair.rejected)]
        batch, unlikely = self.likelihood(texts, texts[0])
        if batch.lengths is None:
            each = unlikely.sum(1)
        else:
            ends = torch.tensor(batch.lengths).cumsum(0)
            text = torch.bucketize(batch.keep, ends, right=True).to(unlikely.device)
            each = unlikely.new_zeros(len(texts)).index_add(0, text, unlikely[0])
        return each[1::2] - each[::2]

    def _references(self, pairs: Sequence[TokenPair]) -> dict[str, float]:
        """The preferences of the model as it starts, by pair."""
        found: dict[str, float] = {}
        training = self._run.training
        self._run.eval()
        with torch.no_grad():
            for part in self.parts(pairs):
                preferred = self._preferences(part, pairs[0]).tolist()
                found |= {pair.id: value for pair, value in zip(part, preferred, strict=False)}
        self._run.train(training)
        everyones = [found] * self._process.world_size
        if self._process.world_size > 1:
            dist.all_gather_object(everyones, found)
        return {name: value for own in everyones for name, value in own.items()}
