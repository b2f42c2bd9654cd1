"""KTO (Ethayarajh et al. 2024): to say more of what is desirable and less of what is not, without pairs.

As TRL computes it: the value of a response is how much likelier it has become than under the reference, against how
much likelier any response has become, estimated by responses to other prompts. The reference is the model as it starts,
adapter included. Two differences to TRL: that estimate is made over a step's whole batch, however it is cut into
forward passes and processes; and each sample has one foreign response, that of the sample before it in the dataset, for
the whole job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from hpcmaf.training.data import TokenSample
from hpcmaf.training.objective import Objective


class Kto(Objective):
    """``1 - sigmoid(value)`` over the number of samples; an undesirable one's value is its opposite.

    A sample's value is beta times its gain in log-likelihood less the batch's
    drift, the mean gain of foreign responses where that is positive.
    """

    measures = ("value", "drift")

    def prepare(self, samples: Sequence[TokenSample]) -> None:
        """Keep the reference's likelihoods, of foreign responses too."""
        longest = max(len(sample.input_ids) for sample in samples)
        before = [samples[-1], *samples[:-1]]
        foreign = [_with_response(own, other, longest) for own, other in zip(samples, before, strict=True)]
        self._foreign = {sample.id: sample for sample in foreign}
        self._start, self._foreign_start = (self.evaluate(texts, self._each) for texts in (samples, foreign))
        self._drift = 0.0

    def begin(self, batch: Sequence[TokenSample]) -> None:
        """Estimate the batch's drift."""
        now = self.evaluate([self._foreign[sample.id] for sample in batch], self._each)
        gains = [now[sample.id] - self._foreign_start[sample.id] for sample in batch]
        self._drift = max(0.0, sum(gains) / len(gains))

    def total(self, part: Sequence[TokenSample]) -> torch.Tensor:
        """Sum over the part's samples."""
        found = self.likelihoods(part)
        gains = found - found.new_tensor([self._start[sample.id] for sample in part])
        sides = found.new_tensor([sample.signal for sample in part])
        values = self._job.kto_beta * sides * (gains - self._drift)
        weights = torch.where(sides > 0, 1.0, self._job.minority_weight)
        self._sums += torch.stack((values.detach().sum(), values.new_tensor(self._drift * len(part))))
        return (weights * torch.sigmoid(-values)).sum()

    def _each(self, part: Sequence[TokenSample]) -> list[float]:
        return self.likelihoods(part).tolist()


def _with_response(sample: TokenSample, other: TokenSample, longest: int) -> TokenSample:
    """A sample's prompt before another's response; of what is longer than all samples the beginning is left out."""
    prompt, begins = sample.input_ids[: sample.target.index(True)], other.target.index(True)
    return replace(
        sample,
        input_ids=(prompt + other.input_ids[begins:])[-longest:],
        target=([False] * len(prompt) + other.target[begins:])[-longest:],
    )
