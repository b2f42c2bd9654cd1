"""What ``debate.py`` compares the engine with: the ways one would try first."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from hpcmaf.engines.base import Completion, Request
from results.bench.debate_workload import CALLS, RANK, Work


class PhaseByPhase:
    """The peer: waits for a whole phase, then hands it to ``LLM.generate``, as a first program would."""

    def __init__(self, model: Path, adapters: dict[str, str], arguments: dict[str, Any], phase: int) -> None:
        # Looking for a GPU is enough to spoil it for a forked process.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
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


def one_at_a_time(model: Path, work: Work, prompts: tuple[int, ...] = (150, 650, 1050)) -> dict[str, Any]:
    """The released code's way: every prompt alone through ``generate``, in bfloat16, without its moves to the CPU.

    One call of each of the three kinds is timed; a debate has as many of each.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with torch.device(device):
        causal = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), dtype=torch.bfloat16).eval()
    assert work.tokens is not None
    spent = []
    for timed, length in [(False, prompts[0]), *((True, length) for length in prompts)]:
        ids = torch.randint(100, 10000, (1, length), device=device)
        began = time.monotonic()
        new = work.tokens if timed else 8
        causal.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=True, top_p=work.top_p, pad_token_id=1)
        if device == "cuda":
            torch.cuda.synchronize()
        if timed:
            spent.append(time.monotonic() - began)
    seconds = sum(spent) / len(spent) * CALLS * work.problems
    return {"seconds": seconds, "timed_calls": [round(one, 2) for one in spent], "new_tokens": work.tokens * len(spent)}
