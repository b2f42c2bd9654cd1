"""Attention inside each of the texts that share a row, and nowhere else.

On GPUs :mod:`torch.nn.attention.varlen`, PyTorch's FlashAttention for texts of different lengths (since 2.10): no
package to build, nothing to compile at start. Elsewhere, one plain attention per text. Both are given the boundaries,
so no mask is ever made. On an H100 (23 texts, 16,710 tokens, 32 and 8 heads of 128, forward and backward) the first
takes 3.39 ms, the second 4.09.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

# Terms that some models add to their scores, and which are not done here.
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")


class Unpackable(Exception):
    """Why a model's texts cannot share a row."""


def to_device(tensor: torch.Tensor, device: torch.device | str | None) -> torch.Tensor:
    """A tensor on a device; a GPU gets it without anyone waiting for what it is busy with."""
    if device is None or torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def boundaries(lengths: Sequence[int], device: torch.device | None = None) -> dict[str, Any]:
    """Where texts in a row begin and end, by the names of transformers' models, which pass it on."""
    positions = to_device(torch.cat([torch.arange(length) for length in lengths])[None], device)
    ends = to_device(torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32), device)
    longest = max(lengths)
    known = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    return known | {"position_ids": positions}


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention in transformers' form, for a batch of one row.

    ``query``, ``key``, ``value`` are [1, heads, T, width], where fewer heads of keys and values than of queries share
    them; ``cu_seq_lens_q``, int32[texts + 1], is where each text begins, and the last one's end. ``Unpackable`` where
    the model does not say, or wants another attention.
    """
    unsupported = next((name for name in _UNSUPPORTED if others.get(name) is not None), None)
    if unsupported or not getattr(module, "is_causal", True):
        raise Unpackable(f"its attention is not plainly causal ({unsupported or 'bidirectional'})")
    if cu_seq_lens_q is None or max_length_q is None or len(query) != 1:
        raise Unpackable("its attention does not get the ends of texts")
    if dropout == 0 and varlen_works(query.device, query.dtype, query.shape[1], key.shape[1], query.shape[-1]):
        output = varlen(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    else:
        output = text_by_text(query, key, value, cu_seq_lens_q, scaling, sliding_window, dropout)
    return output, None


def varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: torch.Tensor,
    longest: int,
    scaling: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """PyTorch's own kernel for texts of different lengths, where this release and GPU have it; [1, T, heads, width]."""
    from torch.nn.attention.varlen import varlen_attn

    # Not the first of one, whose gradient would be written into zeros and then brought into another order.
    rows = [part.squeeze(0).transpose(0, 1) for part in (query, key, value)]
    # So many tokens to the left, the text's own not counted.
    left = -1 if window is None or window >= longest else window - 1
    # Releases before 2.12 take grouped heads by themselves.
    grouped = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
    output = varlen_attn(*rows, ends, ends, longest, longest, scale=scaling, window_size=(left, 0), **grouped)
    in_fixed_order(output, rows)
    return output[None]


def in_fixed_order(output: torch.Tensor, inputs: Sequence[torch.Tensor]) -> None:
    """Have the gradients of one operation summed in a fixed order, so that a job gives the same digits each time.

    FlashAttention adds up the gradients of keys as its threads come, unless PyTorch's deterministic mode is on (with
    ``warn_only`` it only warns). The mode is on from the output's gradient to that of the first input, and so for this
    operation's backward pass alone: 1.5% of a step of an 8B model's layers.
    """
    if output.requires_grad and all(part.requires_grad for part in inputs):
        output.register_hook(lambda gradient: torch.use_deterministic_algorithms(True))
        for part in inputs:
            part.register_hook(lambda gradient: torch.use_deterministic_algorithms(False))


def text_by_text(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: torch.Tensor,
    scaling: float | None = None,
    window: int | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """The same by plain attention, one text after another."""
    grouped, lengths, outputs = query.shape[1] != key.shape[1], ends.diff().tolist(), []
    for parts in zip(*(part.split(lengths, dim=2) for part in (query, key, value)), strict=True):
        mask, length = None, parts[0].shape[2]
        if window is not None and length > window:
            ones = torch.ones(length, length, dtype=torch.bool, device=query.device)
            mask = ones.tril() & ~ones.tril(-window)
        settings = {"dropout_p": dropout, "is_causal": mask is None, "scale": scaling, "enable_gqa": grouped}
        outputs.append(scaled_dot_product_attention(*parts, attn_mask=mask, **settings))
    return torch.cat(outputs, dim=2).transpose(1, 2)


@cache
def varlen_works(device: torch.device, dtype: torch.dtype, heads: int, groups: int, width: int) -> bool:
    """Whether the kernel is there for these shapes and gives what plain attention gives, gradients included."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    lengths, window = [5, 70, 1, 131], 16
    ends, random = boundaries(lengths, device)["cu_seq_lens_q"], torch.Generator(device).manual_seed(0)
    query, key, value, upstream = (
        torch.randn(1, n, sum(lengths), width, device=device, generator=random).to(dtype)
        for n in (heads, groups, groups, heads)
    )

    def results(attend: Any, *settings: Any) -> list[torch.Tensor]:
        leaves = [part.clone().requires_grad_() for part in (query, key, value)]
        with torch.enable_grad():
            output = attend(*leaves, ends, *settings, window=window)
        return [output, *torch.autograd.grad(output, leaves, upstream.transpose(1, 2))]

    try:
        found = results(varlen, max(lengths))
    except (ImportError, RuntimeError, TypeError) as error:
        print(f"packing: no variable-length attention here ({' '.join(str(error).split())[:200]}); text by text")
        return False
    # A few roundings of bfloat16, at values of a few units.
    pairs = zip(found, results(text_by_text), strict=True)
    same = all((a - b).abs().max() < 0.02 * (1 + b.abs().max()) for a, b in pairs)
    if not same:
        print("packing: variable-length attention here differs from plain attention; text by text")
    return same
