"""Random models of a few thousand parameters, of architectures people use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_tokenizer(template: str | None = TEMPLATE) -> Any:
    """One token per printable ASCII character, and chat marks."""
    special = ["<pad>", "<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    vocabulary = {token: index for index, token in enumerate([*special, *CHARACTERS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="<|end|>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>"],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def tiny_model(folder: Path, kind: str = "llama", seed: int = 0, context: int = 512) -> Path:
    """Save a random causal model of an architecture with its tokenizer.

    Parameters
    ----------
    kind
        ``llama``, ``mistral``, ``phi3`` or ``qwen2``.
    """
    tokenizer = tiny_tokenizer()
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # Settings such as real chat models ship; they must not leak into sampling.
    model.generation_config.update(do_sample=True, temperature=0.2, top_k=3, repetition_penalty=1.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_adapter(base: Path, folder: Path, seed: int) -> Path:
    """Save a random LoRA adapter that changes what the base says."""
    torch.manual_seed(seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False),
    )
    model.save_pretrained(folder)
    return folder


def answering_model(folder: Path, digits: Sequence[str], context: int = 512, kind: str = "llama") -> Path:
    """Save a random model that answers nearly everything with one of some digits (or texts, a token each), and stops.

    Two of its channels are set by the last token alone, and no layer writes to
    them: one that always votes for the digits, and one that votes for the end
    once a digit is there. All else is as random as in :func:`tiny_model`,
    so which digit it says depends on the prompt and on the sampling.
    """
    tiny_model(folder, kind, context=context)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    if tokenizer.add_tokens([text for text in digits if len(text) > 1]):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        tokenizer.save_pretrained(folder)
    said = tokenizer.convert_tokens_to_ids(list(digits))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[:2] = 0
            layer.mlp.down_proj.weight[:2] = 0
        seen, heard = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        # Loud beside what the layers write, which varies by prompt.
        seen[:, 0], seen[:, 1] = 8, 0
        seen[said, 1] = 8
        heard[:, :2] = 0
        heard[said, 0], heard[tokenizer.eos_token_id, 1] = 8, 18
    model.save_pretrained(folder)
    return folder


THINKING_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)


def thinking_model(folder: Path, digits: str, context: int = 512) -> Path:
    """An :func:`answering_model` that first writes a thought, of as many ``~`` as it pleases.

    Its template takes thoughts out of earlier turns, and none of its thoughts' characters is in any prompt.
    """
    answering_model(folder, digits, context)
    tokenizer, model = tiny_tokenizer(THINKING_TEMPLATE), AutoModelForCausalLM.from_pretrained(folder)
    tokenizer.add_tokens(["<think>", "</think>"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    rules = ((["<|assistant|>"], ["<think>"]), (["<think>"], ["~"]), (["~"], ["~", "</think>"]))
    own = slice(2, 2 + len(rules))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[own] = 0
            layer.mlp.down_proj.weight[own] = 0
        seen, heard = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        seen[-2:, 0], seen[-2:, 1], heard[-2:, :2] = 8, 0, 0
        seen[:, own], heard[:, own] = 0, 0
        for channel, (after, then) in enumerate(rules, own.start):
            seen[tokenizer.convert_tokens_to_ids(after), channel] = 8
            heard[tokenizer.convert_tokens_to_ids(then), channel] = 24
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
