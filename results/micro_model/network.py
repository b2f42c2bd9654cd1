"""The Llama forward pass with nothing but what training from scratch needs.

transformers' own forward pass keeps caches, masks and
float32 intermediates, which triples the time per step of so small a network.
A test compares the two; what is saved is transformers' model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from results.micro_model.tokenizer import TARGET

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

_THETA = 10_000.0
_EPSILON = 1e-6


def weights_of(model: LlamaForCausalLM) -> list[list[Tensor]]:
    """The model's own parameters: the embedding and last norm, then each layer's nine."""
    made: list[list[Tensor]] = [[model.model.embed_tokens.weight, model.model.norm.weight]]
    for layer in model.model.layers:
        attention, inner = layer.self_attn, layer.mlp
        modules = (
            layer.input_layernorm,
            attention.q_proj,
            attention.k_proj,
            attention.v_proj,
            attention.o_proj,
            layer.post_attention_layernorm,
            inner.gate_proj,
            inner.up_proj,
            inner.down_proj,
        )
        made.append([module.weight for module in modules])
    return made


def _turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding of ``x[B, H, T, D]``."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine


def logits_of(weights: list[list[Tensor]], ids: Tensor, heads: int, precision: torch.dtype) -> Tensor:
    """Logits ``[B, T, V]`` of ids ``[B, T]``; padding, if any, is on the right."""
    rows, width = ids.shape
    embedding, last = (weight.to(precision) for weight in weights[0])
    hidden = embedding.shape[1]
    size = hidden // heads
    rates = _THETA ** (-torch.arange(0, size, 2, device=ids.device, dtype=torch.float32) / size)
    angles = torch.arange(width, device=ids.device, dtype=torch.float32)[:, None] * rates
    cosine, sine = (torch.cat((part, part), dim=-1).to(precision) for part in (angles.cos(), angles.sin()))
    x = functional.embedding(ids, embedding)
    for layer in weights[1:]:
        norm, q, k, v, out, norm2, gate, up, down = (weight.to(precision) for weight in layer)
        y = functional.rms_norm(x, (hidden,), norm, _EPSILON)
        three = functional.linear(y, torch.cat((q, k, v))).view(rows, width, 3, heads, size).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            _turn(three[0], cosine, sine), _turn(three[1], cosine, sine), three[2], is_causal=True
        )
        x = x + functional.linear(mixed.transpose(1, 2).reshape(rows, width, hidden), out)
        y = functional.rms_norm(x, (hidden,), norm2, _EPSILON)
        x = x + functional.linear(functional.silu(functional.linear(y, gate)) * functional.linear(y, up), down)
    return functional.linear(functional.rms_norm(x, (hidden,), last, _EPSILON), embedding)


def loss_sum(weights: list[list[Tensor]], batch: Tensor, heads: int, precision: torch.dtype) -> Tensor:
    """Summed cross entropy of the target tokens of a batch ``[B, T]`` of uint8, as the corpus makes them."""
    coded = batch.long()
    ids = coded % TARGET
    logits = logits_of(weights, ids, heads, precision)[:, :-1].float()
    labels = torch.where(coded >= TARGET, ids, -100)[:, 1:]
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), reduction="sum")
