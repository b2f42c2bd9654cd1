"""Random models of a few thousand parameters, of architectures people use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
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


def character_tokenizer(special: Sequence[str], more: str = "", *, adds_bos: bool = False, **settings: Any) -> Any:
    """One token per printable ASCII character; with ``adds_bos`` it puts a BOS before any text, as many real ones do."""
    vocabulary = {token: index for index, token in enumerate([*special, *CHARACTERS, *more])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens(list(special))
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="<unk>", **settings)


def tiny_tokenizer(template: str | None = TEMPLATE) -> Any:
    """With chat marks, the last of which ends every turn."""
    named = ["<|user|>", "<|assistant|>", "<|system|>"]
    special = ["<pad>", "<s>", "</s>", "<unk>", *named, "<|end|>"]
    own = {"eos_token": "<|end|>", "pad_token": "<pad>", "clean_up_tokenization_spaces": False}
    return character_tokenizer(special, additional_special_tokens=named, chat_template=template, **own)


def make_tokenizer(
    template: str | None, *, adds_bos: bool, named: Sequence[str] = ("<end>", "<user>", "<assistant>")
) -> Any:
    """With other marks, an end of text, and the character that stands for what is none."""
    own = {"eos_token": "</s>", "additional_special_tokens": list(named), "chat_template": template}
    return character_tokenizer(["<unk>", "<s>", "</s>", *named], "\ufffd", adds_bos=adds_bos, **own)


def tiny(make: str, seed: int = 3, **settings: Any) -> Any:
    """A random causal model of two layers: ``llama``, ``mistral``, ``phi3`` or ``qwen2``."""
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
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def make_model(folder: Path, make: str, *, tied: bool = False) -> Path:
    """Save a random model with a tokenizer as its make has it."""
    tokenizer = make_tokenizer(MAKES[make], adds_bos=True)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": tied}
    tiny(make, seed=7, vocab_size=len(tokenizer), **heads).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_model(folder: Path, kind: str = "llama", seed: int = 0, context: int = 512) -> Path:
    """Save a random model with its tokenizer."""
    tokenizer = tiny_tokenizer()
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    size = {"vocab_size": len(tokenizer), "intermediate_size": 64, "max_position_embeddings": context}
    model = tiny(kind, seed, initializer_range=0.3, **size, **ends)
    # Settings such as real chat models ship; they must not leak into sampling.
    model.generation_config.update(do_sample=True, temperature=0.2, top_k=3, repetition_penalty=1.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_adapter(base: Path, folder: Path, seed: int, alpha: int = 8) -> Path:
    """Save a random LoRA adapter that changes what the base says."""
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=alpha, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
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
