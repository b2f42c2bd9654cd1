"""Tiny models of foreign makes, made from their configuration classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Writes its own BOS, as Llama's and Mistral's do.
BOS_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# Ends every turn with a token that is not EOS, and writes no BOS, as Phi-3's.
END_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% else %}{{ eos_token }}{% endif %}"
)
MAKES = {"llama": BOS_TEMPLATE, "mistral": None, "phi3": END_TEMPLATE}


def make_tokenizer(template: str | None, *, adds_bos: bool, named: Sequence[str] = ("<end>", "<user>", "<assistant>")):
    """Characters as tokens; with ``adds_bos`` it puts a BOS before any text, as many real ones do."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from tokenizers.decoders import Fuse
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>", *named]
    characters = [chr(code) for code in range(32, 127)] + ["\n", "\ufffd"]
    vocabulary = {token: index for index, token in enumerate(special + characters)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = Fuse()
    core.add_special_tokens(special)
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(named),
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny(make: str, seed: int = 3, **settings: Any) -> Any:
    """A random model of two layers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    usual = {
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(make, **usual | settings)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config)


def make_model(folder: Path, make: str, *, tied: bool = False) -> Path:
    """Save a random model with its tokenizer."""
    tokenizer = make_tokenizer(MAKES[make], adds_bos=True)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": tied}
    tiny(make, seed=7, vocab_size=len(tokenizer), **heads).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
