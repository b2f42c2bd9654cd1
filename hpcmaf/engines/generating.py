"""A batch through ``transformers.generate``, with draws of each request's own, and without those who have finished.

``generate`` goes on with all rows until the longest answer ends, and answers
of one batch differ: half of what it computes can be padding. So it is stopped
whenever a good part has finished, and called again for the rest, with their
keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, LogitsProcessor, StoppingCriteria

from hpcmaf.engines.base import Diverged, Request

# Share of rows that have to be done before the rest goes on alone, which
# costs a copy of their keys and values.
_DONE = 0.2
_FEWEST = 4


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
        """Keep one token per row of ``scores[B, V]``; raises EngineError where a row's are not numbers."""
        step = input_ids.shape[1] - self.prompt_length
        probabilities = torch.softmax(scores.float() / self.temperature, dim=-1)
        ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)  # [B, V]
        cumulative = ordered.double().cumsum(dim=-1)
        # A token belongs to the nucleus when those before it do not fill it.
        nucleus = (cumulative - ordered < self.top_p).sum(dim=-1, keepdim=True)  # [B, 1], at least 1
        if bool((nucleus < 1).any()):  # not-a-number compares false
            row = int((nucleus < 1).flatten().nonzero()[0])
            raise Diverged(self.models[row])
        threshold = self.uniforms[:, step : step + 1] * cumulative.gather(1, nucleus - 1)
        position = torch.searchsorted(cumulative, threshold, right=True).minimum(nucleus - 1)
        position = position.masked_fill(self.greedy[:, None], 0)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens.gather(1, position), 0.0)


class Thinned(StoppingCriteria):
    """Stops each row at its end or limit, and all of them when enough have come to theirs.

    ``generate`` knows one limit per batch; a row near the end of its context
    must not shorten its neighbours. ``done[B]`` are the rows at their end;
    ``on_step`` is called with the tokens that a step made and the rows it ended.
    """

    def __init__(
        self, limits: torch.Tensor, prompt_length: int, stop_ids: torch.Tensor, on_step: Callable[[int, int], None]
    ) -> None:
        self.limits, self.prompt_length, self.stop_ids, self.on_step = limits, prompt_length, stop_ids, on_step
        self.done = torch.zeros_like(limits, dtype=torch.bool)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        """Return ``done[B]``, or all true."""
        before, rows = int(self.done.sum()), len(self.done)
        ended = torch.isin(input_ids[:, -1], self.stop_ids)
        self.done |= ended | (input_ids.shape[1] - self.prompt_length >= self.limits)
        now, enough = int(self.done.sum()), max(_FEWEST, int(_DONE * rows))
        self.on_step(rows - before, now - before)
        return torch.ones_like(self.done) if rows > enough <= now else self.done  # type: ignore[return-value]


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    requests: Sequence[Request],
    limits: Sequence[int],
    *,
    stop_ids: Sequence[int],
    pad: int,
    adapters: Sequence[str] | None,
    device: torch.device,
    on_step: Callable[[int, int], None],
) -> list[list[int]]:
    """New tokens of every row, up to and with the one that ends it.

    Parameters
    ----------
    limits
        Most new tokens of each row, at least 1.
    adapters
        Name of each row's adapter, ``"__base__"`` for none; ``None`` if the
        model has none.
    """
    width, steps = max(map(len, prompts)), max(limits)
    ids = torch.full((len(prompts), width), pad)  # [B, T]
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    stops, most = torch.tensor(stop_ids, device=device), torch.tensor(limits, device=device)
    sampling = SeededSampling(requests, width, steps, device)
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    rows = list(range(len(prompts)))
    made: list[list[int]] = [[] for _ in rows]
    while rows:
        thinned = Thinned(most, width, stops, on_step)
        ids = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=steps - (ids.shape[1] - width),
            eos_token_id=list(stop_ids),
            pad_token_id=pad,
            past_key_values=cache,
            logits_processor=[sampling],
            stopping_criteria=[thinned],
            **({} if adapters is None else {"adapter_names": [adapters[row] for row in rows]}),
        )
        for row, tokens, done in zip(rows, ids[:, width:].tolist(), thinned.done.tolist(), strict=True):
            if done:
                end = next((place for place, token in enumerate(tokens) if token in stop_ids), len(tokens))
                made[row] = tokens[: min(end + 1, limits[row])]
        left = (~thinned.done).nonzero()[:, 0]
        rows = [rows[place] for place in left.tolist()]
        if rows:
            ids, most = ids[left], most[left]
            mask = torch.nn.functional.pad(mask[left], (0, ids.shape[1] - mask.shape[1]), value=1)
            cache.batch_select_indices(left)
            sampling.keep(left)
    return made
