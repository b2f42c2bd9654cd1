"""Buffers with room hold what transformers' own cache holds."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, DynamicCache, MistralConfig, MistralForCausalLM
from transformers.cache_utils import DynamicLayer

from hpcmaf.engines.kvcache import RoomyLayer, roomy_cache
from hpcmaf.micro import base_path


def test_it_holds_what_concatenation_holds() -> None:
    draw = torch.Generator().manual_seed(0)
    ours, theirs = RoomyLayer(room=3), DynamicLayer()
    for length in (5, 1, 1, 1, 1, 2):  # beyond its room, too
        keys, values = torch.randn(2, 2, 4, length, 8, generator=draw)
        for mine, known in zip(ours.update(keys, values), theirs.update(keys, values), strict=True):
            assert torch.equal(mine, known)
    assert ours.get_seq_length() == 11
    # What transformers replaces moves into new buffers.
    for layer in (ours, theirs):
        layer.batch_select_indices(torch.tensor([1]))
        layer.crop(-4)
    keys, values = torch.randn(2, 1, 4, 1, 8, generator=draw)
    for mine, known in zip(ours.update(keys, values), theirs.update(keys, values), strict=True):
        assert torch.equal(mine, known)
    ours.reset()
    assert ours.get_seq_length() == 0


def test_a_token_is_written_beside_the_old_ones() -> None:
    layer = RoomyLayer(room=2)
    first = layer.update(torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3, 4))[0].data_ptr()
    assert [layer.update(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 4))[0].data_ptr() for _ in range(2)] == [first] * 2


def test_a_model_says_the_same_with_it() -> None:
    model = AutoModelForCausalLM.from_pretrained(base_path())
    prompt = torch.randint(1, 20, (3, 12), generator=torch.Generator().manual_seed(1))
    asked = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt), "max_new_tokens": 20, "do_sample": False}
    plain = model.generate(**asked, past_key_values=DynamicCache(config=model.config))
    assert torch.equal(model.generate(**asked, past_key_values=roomy_cache(model, 20)), plain)


def test_layers_of_other_kinds_stay_as_they_are() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = MistralForCausalLM(MistralConfig(vocab_size=32, num_hidden_layers=2, sliding_window=8, **sizes))
    assert RoomyLayer not in {type(layer) for layer in roomy_cache(model, 4).layers}
