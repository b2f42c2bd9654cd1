"""The debates that ``debate.py`` times: a model of random weights, adapters on it, and how long answers are."""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpcmaf.answers import AnswerForm
from hpcmaf.debate.methods import Society
from hpcmaf.debate.protocol import Protocol, debate_all
from hpcmaf.engines.base import Completion, Request, Sampling
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.prompts import PromptSet

AGENTS, ROUNDS, RANK = 3, 2, 16
CALLS = AGENTS * (2 * ROUNDS - 1)

NAMES = [f"{role}-{n}" for role in ("generator", "critic") for n in range(AGENTS)]
SHAPE = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
TINY = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
VOCABULARY = 128256


# Of about the lengths measured on GSM8K: 150, 650 and 1,050 tokens with the earlier turns.
WORDS = PromptSet(
    templates={
        "first": "{{ question }}",
        "summarize": "{{ question[:120] }} {{ answers | join(' ') }}",
        "update": "{{ summary }} {{ question }}",
        "update_without_summary": "{{ answers | join(' ') }} {{ question }}",
    }
)


def make_model(folder: Path, shape: dict[str, int]) -> None:
    """Configuration and a tokenizer that reads back as tokens what it wrote as text; no weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {"<s>": 0, "<end>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<end>", unk_token="<unk>", pad_token="<end>"
    )
    fast.chat_template = (
        "<s> {% for m in messages %}{{ 'w3' if m['role'] == 'user' else 'w4' }} {{ m['content'] }} "
        "{{ '<end> ' if m['role'] == 'assistant' else '' }}{% endfor %}{% if add_generation_prompt %}w4{% endif %}"
    )
    fast.save_pretrained(folder)
    config = LlamaConfig(
        **shape,
        num_key_value_heads=shape["num_attention_heads"] // 4,
        vocab_size=VOCABULARY,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        bos_token_id=0,
        eos_token_id=1,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)


def make_adapters(folder: Path, shape: dict[str, int]) -> dict[str, str]:
    """Six adapters that do change the model."""
    import torch
    from safetensors.torch import save_file

    hidden, wide = shape["hidden_size"], shape["intermediate_size"]
    sizes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden, hidden // 4),
        "self_attn.v_proj": (hidden, hidden // 4),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (hidden, wide),
        "mlp.up_proj": (hidden, wide),
        "mlp.down_proj": (wide, hidden),
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made = {}
    for number, name in enumerate(NAMES):
        made[name] = str(folder / name)
        if (folder / name / "adapter_config.json").exists():
            continue
        generator = torch.Generator(device).manual_seed(number)
        tensors = {}
        for layer in range(shape["num_hidden_layers"]):
            for module, (inward, outward) in sizes.items():
                key = f"base_model.model.model.layers.{layer}.{module}"
                for half, size in (("lora_A", (RANK, inward)), ("lora_B", (outward, RANK))):
                    drawn = torch.randn(size, generator=generator, device=device) * 0.02
                    tensors[f"{key}.{half}.weight"] = drawn.to(torch.bfloat16).cpu().contiguous()
        (folder / name).mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / name / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none"}
        config["target_modules"] = sorted({module.partition(".")[2] for module in sizes})
        (folder / name / "adapter_config.json").write_text(json.dumps(config))
    return made


@dataclass(frozen=True)
class Work:
    """The debates to run.

    Attributes
    ----------
    tokens
        Of each answer; ``None`` draws them (log-normal, median 250, 50 to 2,048).
    shorter
        What drawn lengths are divided by, to try the script.
    seeded
        Whether every call has a seed of its own, as debates do.
    """

    problems: int
    tokens: int | None = 300
    top_p: float = 1.0
    seeded: bool = True
    shorter: int = 1

    def length(self, key: str) -> int:
        """Tokens of a call's answer: the same for whoever makes it."""
        if self.tokens is not None:
            return self.tokens
        draw = random.Random(hashlib.sha256(key.encode()).digest())
        return round(min(2048, max(50, draw.lognormvariate(math.log(250), 0.8)))) // self.shorter


class Lengths:
    """Sets every request's length before an engine sees it."""

    def __init__(self, engine: Any, work: Work) -> None:
        self.engine, self.work = engine, work

    async def complete(self, request: Request) -> Completion:
        sampling = request.sampling.model_copy(update={"max_new_tokens": self.work.length(request.key)})
        seed: Any = request.seed if self.work.seeded else None
        return await self.engine.complete(replace(request, sampling=sampling, seed=seed))


async def run_debates(work: Work, engine: Any, question_seed: int = 0, first: int = 0) -> dict[str, Any]:
    """All debates; returns seconds and counts.

    Parameters
    ----------
    question_seed
        Draws the questions; another number where an engine's prefix cache
        still has those of the debates before. Lengths stay as they are.
    first
        Number of the first problem, on which lengths depend.
    """
    draw = random.Random(question_seed)
    problems = [
        Problem(f"p{first + i}", " ".join(f"w{draw.randrange(100, VOCABULARY)}" for _ in range(146)), "1")
        for i in range(work.problems)
    ]
    sampling = Sampling(top_p=work.top_p, max_new_tokens=300)
    protocol = Protocol(ROUNDS, True, WORDS, AnswerForm.NUMBER, sampling, seed=0, iteration=1)
    began = time.monotonic()
    done = await debate_all(problems, Society.of(AGENTS, NAMES), protocol, Lengths(engine, work))
    seconds = time.monotonic() - began
    turns = [turn for one in done for rows in (*one.answers, *one.summaries) for turn in rows]
    new = sum(turn.completion_tokens for turn in turns)
    prompt = sum(turn.prompt_tokens for turn in turns)
    return {"seconds": seconds, "calls": len(turns), "prompt_tokens": prompt, "new_tokens": new}
