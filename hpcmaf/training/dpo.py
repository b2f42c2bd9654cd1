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

from hpcmaf.training.data import collate, share
from hpcmaf.training.loss import negative_log_likelihood
from hpcmaf.training.packing import share_packed
from hpcmaf.training.pairs import TokenPair
from hpcmaf.training.process import Process
from hpcmaf.training.spec import FinetuneJob


class Dpo:
    """``-log sigmoid(beta * margin)`` over the number of pairs.

    A pair's margin is by how much more than its reference the model prefers
    the chosen answer to the rejected one, in nats.

    Parameters
    ----------
    run
        What to call: the model under DeepSpeed, still as the job starts.
    pairs
        All of the job's. Every process has to come here with the same.
    packed
        Whether texts share rows; the model's attention must be prepared for it.
    """

    measures = ("reward_margin", "reward_accuracy")

    def __init__(
        self, run: torch.nn.Module, job: FinetuneJob, process: Process, pairs: Sequence[TokenPair], *, packed: bool
    ) -> None:
        self._run, self._job, self._process, self._packed = run, job, process, packed
        self._sums = torch.zeros(len(self.measures), dtype=torch.float64, device=process.device)
        self._reference = self._by_reference(pairs)

    def weight(self, batch: Sequence[TokenPair]) -> int:
        """Pairs."""
        return len(batch)

    def parts(self, batch: Sequence[TokenPair]) -> list[Sequence[TokenPair]]:
        """Packed rows of pairs, or padded micro-batches of such of like length."""
        job, own = self._job, {"rank": self._process.rank, "processes": self._process.world_size}
        if self._packed:
            return share_packed(batch, capacity=job.micro_batch_size * job.max_length, **own)
        return share(batch, micro_batch_size=max(1, job.micro_batch_size // 2), **own)

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
        batch = collate(texts, pad_id=0, filler=texts[0], packed=self._packed)
        unlikely = negative_log_likelihood(self._run, batch, self._process.device)
        if batch.lengths is None:
            each = unlikely.sum(1)
        else:
            ends = torch.tensor(batch.lengths).cumsum(0)
            text = torch.bucketize(batch.keep, ends, right=True).to(unlikely.device)
            each = unlikely.new_zeros(len(texts)).index_add(0, text, unlikely[0])
        return each[1::2] - each[::2]

    def _by_reference(self, pairs: Sequence[TokenPair]) -> dict[str, float]:
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
