"""A batch through a model of transformers: draws of each request's own, and rows that leave when they have finished."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from hpcmaf.engines.base import Completion, Diverged, Request
from hpcmaf.engines.engine import Prompts

# Rows that have to be done, and their share of the batch, before the rest goes
# on alone, which costs a copy of their keys and values.
_FEWEST, _DONE = 4, 0.2
# Logits of this many bytes at once; a vocabulary is large.
_LOGIT_BYTES = 1 << 30


class SeededSampling:
    """Sampling with one random stream per row, with vLLM's order of what narrows a draw.

    transformers draws all rows of a batch from one generator, so a row's text depends on its neighbours. Here each row
    brings its own uniforms, one per position, and picks its token by inverse transform over the nucleus.

    Parameters
    ----------
    requests
        Rows of the batch, B of them.
    steps
        Most new tokens of any row.
    """

    def __init__(self, requests: Sequence[Request], steps: int, device: torch.device) -> None:
        draws = [np.random.Generator(np.random.Philox(request.seed)).random(steps) for request in requests]
        self.uniforms = torch.from_numpy(np.stack(draws)).to(device)  # [B, steps]

        def column(name: str) -> torch.Tensor:
            return torch.tensor([getattr(request.sampling, name) for request in requests], device=device)[:, None]

        self.greedy = column("temperature") == 0  # this and the others: [B, 1]
        self.temperature = column("temperature").masked_fill(self.greedy, 1.0)
        self.top_p, self.top_k, self.min_p = map(column, ("top_p", "top_k", "min_p"))
        self.narrows = bool(self.top_k.any() or self.min_p.any())
        self.penalty = column("repetition_penalty")
        self.penalizes = bool((self.penalty != 1).any())
        self.models = [request.model for request in requests]

    def __call__(
        self, scores: torch.Tensor, rows: Sequence[int], step: int, texts: Sequence[list[int]] = ()
    ) -> torch.Tensor:
        """One token for each of some rows.

        Parameters
        ----------
        scores
            Logits, ``[rows, V]``.
        texts
            Each of these rows' tokens so far, prompt and response, where ``penalizes`` says so.

        Raises
        ------
        Diverged
            A row's logits are not numbers.
        """
        chosen, scores = torch.tensor(rows, device=scores.device), scores.float()
        if self.penalizes:
            seen = torch.zeros_like(scores, dtype=torch.bool)
            for row, text in enumerate(texts):
                seen[row, torch.tensor(text, device=scores.device)] = True
            penalty = self.penalty[chosen]
            scores = torch.where(seen, torch.where(scores > 0, scores / penalty, scores * penalty), scores)
        probabilities = torch.softmax(scores / self.temperature[chosen], dim=-1)
        ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
        if self.narrows:
            rank = torch.arange(ordered.shape[-1], device=scores.device)
            top_k = self.top_k[chosen]
            kept = ((top_k == 0) | (rank < top_k)) & (ordered >= self.min_p[chosen] * ordered[:, :1])
            ordered = ordered * kept
            ordered = ordered / ordered.sum(dim=-1, keepdim=True)
        cumulative = ordered.double().cumsum(dim=-1)
        # A token belongs to the nucleus when those before it do not fill it.
        nucleus = (cumulative - ordered < self.top_p[chosen]).sum(dim=-1, keepdim=True)  # at least 1
        if bool((nucleus < 1).any()):  # not-a-number compares false
            raise Diverged(self.models[rows[int((nucleus < 1).flatten().nonzero()[0])]])
        threshold = self.uniforms[chosen, step : step + 1] * cumulative.gather(1, nucleus - 1)
        position = torch.searchsorted(cumulative, threshold, right=True).minimum(nucleus - 1)
        return tokens.gather(1, position.masked_fill(self.greedy[chosen], 0))  # [rows, 1]


@dataclass(eq=False, slots=True)
class Waiting:
    """A request with its prompt's tokens and whoever awaits it."""

    request: Request
    prompt: list[int]
    future: asyncio.Future[Completion]


def generate(
    model: Any, batch: Sequence[Waiting], prompts: Prompts, *, mixes: bool, on_step: Callable[[int, int], None]
) -> list[list[int]]:
    """New tokens of every row, up to and with the one that ends it.

    Answers of one batch differ in length: half of what it computes could be padding. So whenever a good part of the
    rows has finished, the rest goes on without them.

    Parameters
    ----------
    mixes
        Whether rows go through adapters.
    on_step
        Called with the tokens that a step made and the rows it ended.
    """
    width, stops = max(len(one.prompt) for one in batch), set(prompts.stop_ids)
    limits = [min(one.request.sampling.max_new_tokens, prompts.context - len(one.prompt)) for one in batch]
    inputs = torch.tensor([[0] * (width - len(one.prompt)) + one.prompt for one in batch])  # [B, T]
    mask = torch.tensor([[0] * (width - len(one.prompt)) + [1] * len(one.prompt) for one in batch])
    inputs, mask = inputs.to(model.device), mask.to(model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    sample = SeededSampling([one.request for one in batch], max(limits), model.device)
    made, rows, done = [list[int]() for _ in batch], list(range(len(batch))), set[int]()
    for step in range(max(limits)):
        scores = model(
            input_ids=inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1, **_adapters([batch[row] for row in rows], mixes),
        ).logits[:, -1]  # fmt: skip
        texts = [[*batch[row].prompt, *made[row]] for row in rows] if sample.penalizes else []
        inputs, before = sample(scores, rows, step, texts), len(done)
        for row, token in zip(rows, inputs[:, 0].tolist(), strict=True):
            if row not in done:
                made[row].append(token)
                if token in stops or step + 1 == limits[row] or prompts.ended(batch[row].request, made[row]):
                    done.add(row)
        on_step(len(rows) - before, len(done) - before)
        mask, positions = torch.nn.functional.pad(mask, (0, 1), value=1), positions[:, -1:] + 1
        if len(done) >= min(len(rows), max(_FEWEST, int(_DONE * len(rows)))):
            left = [position for position, row in enumerate(rows) if row not in done]
            if not left:
                break
            rows, done, kept = [rows[position] for position in left], set(), torch.tensor(left, device=model.device)
            inputs, mask, positions = inputs[kept], mask[kept], positions[kept]
            cache.batch_select_indices(kept)
    return made


def likelihoods(model: Any, batch: Sequence[Waiting], texts: Sequence[list[int]], *, mixes: bool) -> list[list[float]]:
    """Natural log-likelihood of each token of each request's text but the first, given those before it."""
    vocabulary = model.config.get_text_config().vocab_size
    # Rows of one length travel together, and nothing is computed for padding.
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    values: dict[int, list[float]] = {}
    while order:
        width = len(texts[order[-1]])
        count = max(1, _LOGIT_BYTES // (4 * width * vocabulary))
        rows, order = order[-count:], order[:-count]
        lengths = torch.tensor([len(texts[row]) for row in rows])
        ids = torch.tensor([texts[row] + [0] * (width - len(texts[row])) for row in rows]).to(model.device)  # [B, T]
        mask = (torch.arange(width) < lengths[:, None]).long().to(model.device)
        adapters = _adapters([batch[row] for row in rows], mixes)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **adapters).logits
        picked = logits[:, :-1].float().log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]  # [B, T - 1]
        values |= {row: scores[: len(texts[row]) - 1] for row, scores in zip(rows, picked.tolist(), strict=True)}
    return [values[row] for row in range(len(texts))]


def _adapters(batch: Sequence[Waiting], mixes: bool) -> dict[str, list[str]]:
    """Which adapter each row goes through, in PEFT's words, where a model has any."""
    return {"adapter_names": [one.request.model or "__base__" for one in batch]} if mixes else {}
