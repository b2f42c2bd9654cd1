"""A debate of an 8B society on one GPU: requests that move on by themselves, against phase by phase.

    python -m tests.benchmarks.bench_debate [--problems 500] [--lengths fixed|uneven] [--out FOLDER]

N=3, M=2 with summaries and six rank-16 adapters on every linear layer of a
model of Llama-3-8B's shape with random weights: 4,500 calls at 500 problems.
Random weights never end a text, so each call's length is set beforehand: 300
tokens, or drawn (log-normal, median 250, 50 to 2,048), the same for all
contestants. Both run on vLLM with the same settings, one after the other in
this run; starting is reported apart. The peer hands vLLM a phase at a time,
every request with its adapter, as a first program would: round 1, summaries,
round 2.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcmaf.answers import AnswerForm
from hpcmaf.debate.protocol import Protocol, debate
from hpcmaf.debate.society import Society
from hpcmaf.engines.base import Completion, Request, Sampling, ServedModels
from hpcmaf.tasks.base import Problem

AGENTS, ROUNDS, RANK = 3, 2, 16
NAMES = [f"{role}-{n}" for role in ("generator", "critic") for n in range(AGENTS)]
SHAPE = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
TINY = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
VOCABULARY = 128256


class Words:
    """Prompts of about the lengths measured on GSM8K: 150, 650 and 1,050 tokens with what was said before."""

    def first(self, question: str) -> str:
        return question

    def summarize(self, question: str, answers: Sequence[str]) -> str:
        return " ".join([question[:120], *answers])

    def update(self, question: str, summary: str) -> str:
        return f"{summary} {question}"

    def update_without_summary(self, question: str, answers: Sequence[str]) -> str:
        return " ".join([*answers, question])


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
        made[name] = str(folder / name)
    return made


def length(key: str, uneven: bool) -> int:
    """Tokens of a call's answer: the same for whoever makes it."""
    if not uneven:
        return 300
    draw = random.Random(hashlib.sha256(key.encode()).digest())
    return round(min(2048, max(50, draw.lognormvariate(math.log(250), 0.8))))


class Lengths:
    """Sets every request's length before an engine sees it."""

    def __init__(self, engine: Any, uneven: bool) -> None:
        self.engine, self.uneven = engine, uneven

    async def complete(self, request: Request) -> Completion:
        sampling = replace(request.sampling, max_new_tokens=length(request.key, self.uneven))
        return await self.engine.complete(replace(request, sampling=sampling))


class PhaseByPhase:
    """The peer: waits for a whole phase, then hands it to ``LLM.generate``."""

    def __init__(self, model: Path, adapters: dict[str, str], arguments: dict[str, Any], phase: int) -> None:
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        self.llm = LLM(str(model), enable_lora=True, max_loras=7, max_lora_rank=RANK, **arguments)
        self.adapters = {name: LoRARequest(name, n, path) for n, (name, path) in enumerate(adapters.items(), 1)}
        self.tokenizer = self.llm.get_tokenizer()
        self.phase, self.waiting, self.spent = phase, [], []  # type: ignore[var-annotated]

    async def complete(self, request: Request) -> Completion:
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self.waiting.append((request, future))
        if len(self.waiting) == self.phase:
            self._generate()
        return await future

    def _generate(self) -> None:
        from vllm import SamplingParams

        waiting, self.waiting = self.waiting, []
        chats = [list(request.messages) for request, _ in waiting]
        prompts = self.tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer(prompts, add_special_tokens=False)["input_ids"]
        sampling = [
            SamplingParams(
                temperature=r.sampling.temperature,
                top_p=r.sampling.top_p,
                max_tokens=r.sampling.max_new_tokens,
                seed=None,
            )
            for r, _ in waiting
        ]
        began = time.monotonic()
        outputs = self.llm.generate(
            [{"prompt_token_ids": row} for row in ids],
            sampling,
            lora_request=[self.adapters.get(request.model or "") for request, _ in waiting],
            use_tqdm=False,
        )
        self.spent.append(round(time.monotonic() - began, 1))
        for (_, future), output in zip(waiting, outputs, strict=True):
            made = output.outputs[0]
            tokens = tuple(made.token_ids)
            future.set_result(Completion(made.text, tokens, len(output.prompt_token_ids or ()), "length"))


async def hold(problems: int, engine: Any, uneven: bool, top_p: float) -> tuple[float, dict[str, int]]:
    """All debates; returns seconds and tokens."""
    draw = random.Random(0)
    asked = [
        Problem(f"p{i}", " ".join(f"w{draw.randrange(100, VOCABULARY)}" for _ in range(146)), "1")
        for i in range(problems)
    ]
    protocol = Protocol(
        rounds=ROUNDS,
        summaries=True,
        prompts=Words(),
        answer_form=AnswerForm.NUMBER,
        sampling=Sampling(1.0, top_p, 300),
        seed=0,
        iteration=1,
    )
    began = time.monotonic()
    engine = Lengths(engine, uneven)
    done = await asyncio.gather(*(debate(p, Society.of(AGENTS, NAMES), protocol, engine) for p in asked))
    seconds = time.monotonic() - began
    turns = [turn for one in done for rows in (*one.answers, *one.summaries) for turn in rows]
    counts = {"prompt": sum(t.prompt_tokens for t in turns), "new": sum(t.completion_tokens for t in turns)}
    return seconds, counts | {"calls": len(turns)}


async def warm(engine: Any) -> None:
    """One short call of everybody's, so that starting is not part of the figure."""
    sampling = Sampling(1.0, 1.0, 8)
    await asyncio.gather(
        *(
            engine.complete(Request(f"warm-{n}", ({"role": "user", "content": "w7"},), n, 0, sampling))
            for n in (None, *NAMES)
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--lengths", choices=["fixed", "uneven"], default="fixed")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--who", default="ours,peer", help="ours, peer, ours:KEY=VALUE;... with vLLM's arguments")
    parser.add_argument("--tiny", action="store_true", help="a small shape, to try the script")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/bench_debate"))
    arguments = parser.parse_args()
    shape = TINY if arguments.tiny else SHAPE
    model = arguments.folder / "base"
    make_model(model, shape)
    adapters = make_adapters(arguments.folder / "adapters", shape)
    uneven = arguments.lengths == "uneven"
    for who in arguments.who.split(","):
        name, _, extra = who.partition(":")
        more = {k: json.loads(v) for k, v in (pair.split("=") for pair in extra.split(";") if pair)}
        print(f"--- {who}, {arguments.problems} problems, {arguments.lengths}", flush=True)
        began = time.monotonic()
        if name == "ours":
            asyncio.run(_ours(model, adapters, more, arguments, uneven, began))
        else:
            values = {
                "max_model_len": 8192,
                "max_num_seqs": 512,
                "gpu_memory_utilization": 0.9,
                "load_format": "dummy",
                "seed": 0,
            }
            peer = PhaseByPhase(model, adapters, values | more, arguments.problems * AGENTS)
            print(f"start {time.monotonic() - began:.1f} s", flush=True)
            seconds, counts = asyncio.run(hold(arguments.problems, peer, uneven, arguments.top_p))
            print(f"RESULT {who}: {seconds:.1f} s, phases {peer.spent}, {counts}", flush=True)
            del peer


async def _ours(
    model: Path, adapters: dict[str, str], more: dict[str, Any], arguments: Any, uneven: bool, began: float
) -> None:
    from hpcmaf.engines.vllm_engine import VllmEngine
    from hpcmaf.engines.vllm_options import VllmOptions

    served = ServedModels(str(model), "lora", adapters)
    options = VllmOptions(max_model_len=8192, arguments={"load_format": "dummy"} | more)
    engine = VllmEngine(served, options)
    try:
        await warm(engine)
        print(f"start {time.monotonic() - began:.1f} s", flush=True)
        seconds, counts = await hold(arguments.problems, engine, uneven, arguments.top_p)
        print(f"RESULT ours {more}: {seconds:.1f} s, {counts}", flush=True)
    finally:
        engine.close()


if __name__ == "__main__":
    main()
