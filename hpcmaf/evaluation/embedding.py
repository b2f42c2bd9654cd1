"""How far apart responses lie in an encoder's space."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from hpcmaf.errors import EngineError


def dissimilarity(vectors: np.ndarray) -> float | None:
    """Mean over pairs of agents of 1 - cosine.

    Parameters
    ----------
    vectors
        One per agent, ``float[N, d]``. A response without a token has no
        direction: its vector is zero, and it takes part in no pair.

    Returns
    -------
    float or None
        ``None`` with fewer than two responses left.
    """
    lengths = np.linalg.norm(vectors, axis=1)
    units = vectors[lengths > 0] / lengths[lengths > 0, None]
    values = [1.0 - float(a @ b) for a, b in combinations(units, 2)]
    return sum(values) / len(values) if values else None


def embed(
    texts: Sequence[str],
    path: str,
    device: Any,
    batch_size: int = 32,
    *,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> np.ndarray:
    """Vectors of texts: the last hidden states of any transformers model, averaged over tokens.

    Of an encoder-decoder such as T5 (the paper's T5-3B) only the encoder is
    used. A causal model's own states work too, but point in similar
    directions: compare values of one encoder only.

    Parameters
    ----------
    path
        The model's folder or hub id.
    device
        As torch names it.
    revision
        Of a hub id: branch, tag or commit.

    Returns
    -------
    numpy.ndarray
        ``float32[len(texts), d]``, zero for a text without a word; longer
        ones are cut at the encoder's limit.

    Raises
    ------
    EngineError
        The model cannot be loaded.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        source = {"revision": revision, "trust_remote_code": trust_remote_code}
        tokenizer = AutoTokenizer.from_pretrained(path, **source)
        model = AutoModel.from_pretrained(path, dtype=dtype, **source)
    except Exception as error:  # whatever the many kinds of models raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise EngineError(f"encoder {path}: cannot be loaded ({reason}); check --encoder") from error
    model = (model.get_encoder() if model.config.is_encoder_decoder else model).to(device).eval()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked; any token will do
    longest = min(getattr(model.config, "max_position_embeddings", None) or 2**20, tokenizer.model_max_length)
    vectors = np.zeros((len(texts), model.config.get_text_config().hidden_size), np.float32)
    # Texts of one length together, which pads least.
    spoken = sorted((i for i, text in enumerate(texts) if text.strip()), key=lambda i: len(texts[i]))
    for low in range(0, len(spoken), batch_size):
        rows = spoken[low : low + batch_size]
        plain = [texts[i].encode("utf-8", "replace").decode() for i in rows]
        batch = tokenizer(plain, padding=True, truncation=True, max_length=longest, return_tensors="pt").to(device)
        mask = batch["attention_mask"]
        if mask.shape[1] == 0:  # no token in any of them
            continue
        with torch.inference_mode():
            states = model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state.float()
        weights = mask[..., None].float()
        vectors[rows] = ((states * weights).sum(1) / weights.sum(1).clamp(min=1)).cpu().numpy()
    return vectors
