"""Embedding dissimilarity: one minus the cosine of two agents' responses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from hpcmaf.errors import EngineError


def dissimilarity(vectors: np.ndarray, chosen: Sequence[bool] | None = None) -> float | None:
    """Mean over pairs of agents of 1 - cosine.

    Parameters
    ----------
    vectors
        One per agent, ``float[N, d]``. A response without a token has no
        direction: its vector is zero, and it takes part in no pair.
    chosen
        Which agents to count; all without it.

    Returns
    -------
    float or None
        ``None`` with fewer than two responses left.
    """
    lengths = np.linalg.norm(vectors, axis=1)
    rows = [n for n in range(len(vectors)) if lengths[n] > 0 and (chosen is None or chosen[n])]
    if len(rows) < 2:
        return None
    units = vectors[rows] / lengths[rows, None]
    values = [1.0 - float(units[a] @ units[b]) for a, b in combinations(range(len(rows)), 2)]
    return sum(values) / len(values)


class Encoder:
    """Any transformers model, as an encoder of texts: its last hidden states, averaged over tokens.

    Of an encoder-decoder such as T5 (the paper's T5-3B) only the encoder is
    used. A causal model's own states work too, but point in similar
    directions: compare figures of one encoder only.

    Parameters
    ----------
    path
        Folder or hub id.
    device
        As torch names it.
    revision
        Of a hub id: branch, tag or commit.

    Raises
    ------
    EngineError
        It cannot be loaded.
    """

    def __init__(
        self,
        path: str,
        device: Any,
        *,
        dtype: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            source = {"revision": revision, "trust_remote_code": trust_remote_code}
            self.tokenizer = AutoTokenizer.from_pretrained(path, **source)
            model = AutoModel.from_pretrained(path, dtype=dtype, **source)
        except Exception as error:  # whatever the many kinds of models raise
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise EngineError(f"encoder {path}: cannot be loaded ({reason}); check --encoder") from error
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        self.model = model.to(device).eval()
        self.device = device
        if self.tokenizer.pad_token_id is None:
            # Padding is masked; any token will do.
            self.tokenizer.pad_token = self.tokenizer.eos_token
        limit = getattr(self.model.config, "max_position_embeddings", None) or 2**20
        self.longest = min(limit, self.tokenizer.model_max_length)

    def encode(self, texts: Sequence[str], batch_size: int) -> np.ndarray:
        """Vectors of texts, ``float32[len(texts), d]``; longer ones are cut at the encoder's limit."""
        import torch

        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors: dict[int, np.ndarray] = {}
        width = self.model.config.get_text_config().hidden_size
        for low in range(0, len(order), batch_size):
            rows = order[low : low + batch_size]
            # Tokens of the text alone where a text is empty: nothing to average.
            plain = [texts[i].encode("utf-8", "replace").decode() for i in rows]
            batch = self.tokenizer(plain, padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
            if batch["input_ids"].shape[1] == 0:
                vectors |= {i: np.zeros(width, np.float32) for i in rows}
                continue
            mask = batch["attention_mask"].to(self.device)
            with torch.inference_mode():
                states = self.model(
                    input_ids=batch["input_ids"].to(self.device), attention_mask=mask
                ).last_hidden_state.float()
            weights = mask[..., None].float()
            pooled = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
            for row, vector, text in zip(rows, pooled.cpu().numpy(), plain, strict=True):
                vectors[row] = vector if text.strip() else np.zeros_like(vector)
        return np.stack([vectors[i] for i in range(len(texts))])
