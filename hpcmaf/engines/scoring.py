"""Log-likelihoods of given tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

# Logits of this many bytes at once; a vocabulary is large.
_LOGIT_BYTES = 1 << 30


def log_likelihoods(
    model: Any, texts: Sequence[Sequence[int]], adapters: Sequence[str] | None, device: torch.device
) -> list[list[float]]:
    """Natural log-likelihood of each token but the first, given those before it.

    Parameters
    ----------
    texts
        Token ids, B rows of their own lengths.
    adapters
        PEFT adapter of each row; ``None`` for a model without adapters.

    Returns
    -------
    list
        B rows, each one shorter than its text.
    """
    vocabulary = model.config.get_text_config().vocab_size
    # Rows of one length travel together, and nothing is computed for padding.
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    values: dict[int, list[float]] = {}
    while order:
        width = len(texts[order[-1]])
        rows, order = _split(order, max(1, _LOGIT_BYTES // (4 * width * vocabulary)))
        ids = torch.zeros((len(rows), width), dtype=torch.long)  # [B, T]
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(texts[row])] = torch.tensor(texts[row])
            mask[place, : len(texts[row])] = 1
        arguments = {"adapter_names": [adapters[row] for row in rows]} if adapters is not None else {}
        ids = ids.to(device)
        logits = model(input_ids=ids, attention_mask=mask.to(device), use_cache=False, **arguments).logits
        picked = logits[:, :-1].float().log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]  # [B, T - 1]
        for place, row in enumerate(rows):
            values[row] = picked[place, : len(texts[row]) - 1].tolist()
    return [values[row] for row in range(len(texts))]


def _split(order: list[int], count: int) -> tuple[list[int], list[int]]:
    """The longest rows, and the rest."""
    return order[-count:], order[:-count]
