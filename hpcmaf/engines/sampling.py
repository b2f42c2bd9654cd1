"""Sampling whose draw belongs to the request, not to the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import LogitsProcessor

from hpcmaf.engines.base import Request
from hpcmaf.errors import EngineError


class SeededSampling(LogitsProcessor):
    """Temperature and nucleus sampling with one random stream per row.

    transformers draws all rows of a batch from one generator, so a row's text
    depends on its neighbours. Here each row brings its own uniforms, one per
    position, and picks its token by inverse transform over the nucleus. All
    other tokens get -inf, so ``generate`` runs with ``do_sample=False``.

    Parameters
    ----------
    requests
        Rows of the batch, B of them.
    prompt_length
        Padded length of the prompts, in tokens.
    steps
        Most new tokens of any row.
    """

    def __init__(self, requests: Sequence[Request], prompt_length: int, steps: int, device: torch.device) -> None:
        draws = [np.random.Generator(np.random.Philox(request.seed)).random(steps) for request in requests]
        self.uniforms = torch.from_numpy(np.stack(draws)).to(device)  # [B, steps]
        temperature = torch.tensor([request.sampling.temperature for request in requests], device=device)
        self.greedy = temperature == 0  # [B]
        self.temperature = temperature.masked_fill(self.greedy, 1.0)[:, None]
        self.top_p = torch.tensor([request.sampling.top_p for request in requests], device=device)[:, None]
        self.prompt_length = prompt_length
        self.models = [request.model for request in requests]

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the rows."""
        self.uniforms, self.greedy = self.uniforms[rows], self.greedy[rows]
        self.temperature, self.top_p = self.temperature[rows], self.top_p[rows]
        self.models = [self.models[row] for row in rows.tolist()]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Keep one token per row of ``scores[B, V]``.

        Raises
        ------
        EngineError
            A row's scores are not numbers.
        """
        step = input_ids.shape[1] - self.prompt_length
        probabilities = torch.softmax(scores.float() / self.temperature, dim=-1)
        ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)  # [B, V]
        cumulative = ordered.double().cumsum(dim=-1)
        # A token belongs to the nucleus when those before it do not fill it.
        nucleus = (cumulative - ordered < self.top_p).sum(dim=-1, keepdim=True)  # [B, 1], at least 1
        if bool((nucleus < 1).any()):  # not-a-number compares false
            row = int((nucleus < 1).flatten().nonzero()[0])
            raise EngineError(
                f"model {self.models[row] or 'base'}: its logits are not numbers, so it has diverged; lower "
                "training.learning_rate, or set model.dtype to bfloat16 or float32, and start a new run"
            )
        mass = cumulative.gather(1, nucleus - 1)
        threshold = self.uniforms[:, step : step + 1] * mass
        position = torch.searchsorted(cumulative, threshold, right=True).minimum(nucleus - 1)
        position = position.masked_fill(self.greedy[:, None], 0)
        chosen = tokens.gather(1, position)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)
