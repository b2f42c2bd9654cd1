"""Fp8 by rounding: what vLLM's fp8 does to numbers, on any device and with any engine that runs PyTorch's layers.

Weights have one scale for a matrix, what goes into a matrix one for each
token, as vLLM's ``quantization: fp8`` has for a checkpoint in 16 bits; queries,
keys and values none, as its ``kv_cache_dtype: fp8`` has for one without
calibration. Embeddings and the output layer stay. Products are added up in
32 bits, here and there.
"""

from __future__ import annotations

from typing import Any

import torch

_LARGEST = torch.finfo(torch.float8_e4m3fn).max


def rounded(values: torch.Tensor, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
    """The nearest values that fp8 (e4m3) has, times ``scale``; larger ones are cut."""
    short = (values / scale).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    return short.to(values.dtype) * scale


def by_token(values: torch.Tensor) -> torch.Tensor:
    """Rounded with a scale for each token."""
    return rounded(values, values.abs().amax(-1, keepdim=True).clamp(min=1e-12) / _LARGEST)


def round_matrices(model: torch.nn.Module) -> int:
    """Round the weights of all layers but the last, and whatever goes into them from now on; returns how many."""
    count = 0
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head"):
            module.weight.data = rounded(module.weight.data, module.weight.data.abs().max() / _LARGEST)
            module.register_forward_pre_hook(lambda _, given: (by_token(given[0]), *given[1:]))
            count += 1
    return count


def round_attention(model: Any) -> None:
    """Round queries, keys and values of a model's attention from now on."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = model.config._attn_implementation
    plain = ALL_ATTENTION_FUNCTIONS[name]

    def attend(module: Any, query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> Any:
        return plain(module, rounded(query), rounded(key), rounded(value), *rest, **more)

    ALL_ATTENTION_FUNCTIONS.register(name, attend)
