"""A batch through ``transformers.generate``, without those who have finished.

``generate`` goes on with all rows until the longest answer ends, and answers
of one batch differ: half of what it computes can be padding. So it is stopped
whenever a good part has finished, and called again for the rest, with their
keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria

from hpcmaf.engines.base import Request
from hpcmaf.engines.kvcache import roomy_cache
from hpcmaf.engines.sampling import SeededSampling

# Share of rows that have to be done before the rest goes on alone, which
# costs a copy of their keys and values.
_DONE = 0.2
_FEWEST = 4


class Thinned(StoppingCriteria):
    """Stops each row at its end, and all of them when enough have come to theirs.

    ``generate`` knows one limit per batch; a row near the end of its context
    must not shorten its neighbours.

    Parameters
    ----------
    limits
        Most new tokens of each row.
    prompt_length
        Padded length of the prompts, in tokens.

    Attributes
    ----------
    done
        bool[B]: rows that have come to their end.
    """

    def __init__(self, limits: torch.Tensor, prompt_length: int, stop_ids: torch.Tensor) -> None:
        self.limits = limits
        self.prompt_length = prompt_length
        self.stop_ids = stop_ids
        self.done = torch.zeros_like(limits, dtype=torch.bool)
        self.enough = max(_FEWEST, int(_DONE * len(limits)))

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        """Return ``done[B]``, or all true."""
        ended = torch.isin(input_ids[:, -1], self.stop_ids)
        self.done |= ended | (input_ids.shape[1] - self.prompt_length >= self.limits)
        if len(self.done) > self.enough and int(self.done.sum()) >= self.enough:
            return torch.ones_like(self.done)  # type: ignore[return-value]
        return self.done  # type: ignore[return-value]


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
    stops = torch.tensor(stop_ids, device=device)
    most = torch.tensor(limits, device=device)
    sampling = SeededSampling(requests, width, steps, device)
    cache = roomy_cache(model, steps)
    rows = list(range(len(prompts)))
    made: list[list[int]] = [[] for _ in rows]
    while rows:
        thinned = Thinned(most, width, stops)
        arguments = {} if adapters is None else {"adapter_names": [adapters[row] for row in rows]}
        ids = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=steps - (ids.shape[1] - width),
            eos_token_id=list(stop_ids),
            pad_token_id=pad,
            past_key_values=cache,
            logits_processor=[sampling],
            stopping_criteria=[thinned],
            **arguments,
        )
        going = ~thinned.done
        for row, tokens, more in zip(rows, ids[:, width:].tolist(), going.tolist(), strict=True):
            if not more:
                made[row] = _until_end(tokens[: limits[row]], stop_ids)
        left = going.nonzero()[:, 0]
        rows = [rows[place] for place in left.tolist()]
        if rows:
            ids, most = ids[left], most[left]
            mask = torch.nn.functional.pad(mask[left], (0, ids.shape[1] - mask.shape[1]), value=1)
            cache.batch_select_indices(left)
            sampling.keep(left)
    return made


def _until_end(tokens: list[int], stop_ids: Sequence[int]) -> list[int]:
    end = next((place for place, token in enumerate(tokens) if token in stop_ids), None)
    return tokens if end is None else tokens[: end + 1]
