"""Tiny models of foreign makes, made from their configuration classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
CONTEXT = 256


# The shapes of well-known families: what ends a turn is no EOS, and most of them trim what is said.
FAMILIES = {
    "phi3": (
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        ["<|user|>", "<|assistant|>", "<|end|>"],
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}<turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{{ m['content'] | trim }}</turn>\n{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}",
        ["<turn>", "</turn>"],
    ),
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ["<|im_start|>", "<|im_end|>"],
    ),
    "llama3": (
        "{{ bos_token }}{% if strftime_now is defined %}<|head|>today is {{ strftime_now('%d %b %Y') }}<|eot|>{% endif %}"
        "{% for m in messages %}<|head|>{{ m['role'] }}\n\n{{ m['content'] | trim }}<|eot|>{% endfor %}"
        "{% if add_generation_prompt %}<|head|>assistant\n\n{% endif %}",
        ["<|head|>", "<|eot|>"],
    ),
}
# As Qwen3's thinking models: the template begins the thought, and shows no earlier ones.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% set parts = m['content'].split('</think>') %}"
    "{% if m['role'] == 'assistant' and parts | length > 1 and loop.last %}"
    "<think>\n{{ parts[0].split('<think>')[-1].strip('\n') }}\n</think>\n\n{% endif %}"
    "{{ parts[-1].lstrip('\n') if parts | length > 1 else m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    ["<|im_start|>", "<|im_end|>", "<think>", "</think>"],
)


def family_tokenizer(family: str, *, special: bool = True):
    """A tokenizer whose marks stand among the added tokens alone; ``special``: whether they are special there."""
    from tokenizers import AddedToken

    template, marks = THINKING if family == "thinking" else FAMILIES[family]
    tokenizer = make_tokenizer(template, adds_bos=False, named=())
    tokenizer.add_tokens([AddedToken(mark, special=special, normalized=False) for mark in marks])
    return tokenizer


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


def make_model(folder: Path, make: str, *, tied: bool = False) -> Path:
    """Save a random model of two layers with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Phi3Config

    tokenizer = make_tokenizer(MAKES[make], adds_bos=True)
    classes = {"llama": LlamaConfig, "mistral": MistralConfig, "phi3": Phi3Config}
    config = classes[make](
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
