"""Train the packaged micro model from scratch.

    python -m results.micro_model.make --out DIR [--seed 0] [--steps N] [--device cuda] [--compile]

Minutes on a data-centre GPU, hours on a laptop. The corpus is endless and
generated beside the training, so no line is seen twice on purpose and nothing
is memorised but the authors' habits. It is the same for a seed everywhere;
weights differ in their last digits between devices.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcmaf.files.publish import atomic_path
from hpcmaf.seeding import derive_seed
from results.micro_model.corpus import SHAPES, Rows
from results.micro_model.corpus import steps as corpus_steps
from results.micro_model.styles import NOISE, Noise
from results.micro_model.tokenizer import BOS, CONTEXT, EOS, PAD, TARGET, VOCABULARY, write_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


@dataclass(frozen=True, slots=True)
class Making:
    """How the micro model is made; the defaults remake the packaged one.

    Attributes
    ----------
    seed
        Of the corpus and the initial weights.
    steps
        Optimiser steps.
    learning_rate
        Peak; linear warm-up over the first 2%, then a cosine to a fiftieth.
    hidden, layers, heads, inner
        Shape of the network.
    chunk_steps
        Steps per chunk of the corpus; part of what a seed means.
    """

    seed: int = 0
    steps: int = 10_000
    learning_rate: float = 1.5e-3
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    inner: int = 384
    chunk_steps: int = 32


def new_model(making: Making) -> LlamaForCausalLM:
    """A network with random weights (float32, tied embeddings)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(derive_seed(making.seed, "micro weights"))
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=making.hidden,
        intermediate_size=making.inner,
        num_hidden_layers=making.layers,
        num_attention_heads=making.heads,
        num_key_value_heads=making.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        use_cache=True,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def save_model(model: LlamaForCausalLM, folder: Path, making: Making, noise: Noise = NOISE) -> None:
    """Publish model, tokenizer and the settings that made them as one folder."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=True, temperature=1.0, top_p=0.9, top_k=0
    )
    with atomic_path(folder) as temporary:
        model.save_pretrained(temporary, safe_serialization=True)
        write_tokenizer(temporary)
        (temporary / "making.json").write_text(
            json.dumps({"making": asdict(making), "noise": asdict(noise)}, indent=1) + "\n"
        )


def stream(
    making: Making, noise: Noise = NOISE, shapes: tuple[Rows, ...] = SHAPES, processes: int = 0
) -> Iterator[list[NDArray[np.uint8]]]:
    """Endless steps, the same whatever the number of processes."""
    work = partial(_chunk, making=making, noise=noise, shapes=shapes)
    if not processes:
        index = 0
        while True:
            yield from work(index)
            index += 1
    # Spawned, not forked: the parent may hold a GPU context and threads.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        # A bounded window: imap alone would fill the memory with batches.
        pending = [pool.apply_async(work, (index,)) for index in range(2 * processes)]
        index = len(pending)
        while True:
            ready = pending.pop(0).get()
            pending.append(pool.apply_async(work, (index,)))
            index += 1
            yield from ready


def _chunk(index: int, making: Making, noise: Noise, shapes: tuple[Rows, ...]) -> list[list[NDArray[np.uint8]]]:
    return corpus_steps(making.seed, index, making.chunk_steps, noise, shapes)


def train(
    making: Making,
    *,
    device: str = "cpu",
    noise: Noise = NOISE,
    shapes: tuple[Rows, ...] = SHAPES,
    processes: int = 0,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    every: int = 200,
    compiled: bool = False,
) -> LlamaForCausalLM:
    """Train from scratch.

    Parameters
    ----------
    making
        Settings.
    device
        A torch device; bfloat16 arithmetic on a GPU, float32 on a CPU.
    noise
        Of the corpus' authors.
    shapes
        Of the batches; part of what a seed means.
    processes
        That write the corpus; 0 writes it in this one.
    report
        Receives ``{"step", "loss", "tokens", "seconds"}`` now and then.
    every
        Steps between reports.
    compiled
        Compile the network for its few shapes (a minute, then several times
        as fast on a GPU).

    Returns
    -------
    LlamaForCausalLM
        On the CPU, in float32.
    """
    import torch

    from results.micro_model.network import loss_sum, weights_of

    model = new_model(making).to(device)
    weights = weights_of(model)
    on_gpu = device.startswith("cuda")
    precision = torch.bfloat16 if on_gpu else torch.float32
    summed_loss = torch.compile(loss_sum, dynamic=False) if compiled else loss_sum
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.0,
        betas=(0.9, 0.98),
        fused=on_gpu,
    )
    started, tokens = time.monotonic(), 0
    source = stream(making, noise, shapes, processes)
    for step in range(making.steps):
        rate = making.learning_rate * learning_rate_factor(step / making.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        due = next(source)
        targets = sum(int((batch[:, 1:] >= TARGET).sum()) for batch in due)
        loss = torch.zeros((), device=device)
        for batch in due:
            rows = torch.from_numpy(batch)
            if on_gpu:
                # From pinned memory the copy does not wait for the GPU to finish the last step.
                rows = rows.pin_memory().to(device, non_blocking=True)
            part = summed_loss(weights, rows, making.heads, precision) / targets
            part.backward()
            loss += part.detach()
            tokens += batch.size
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % every == 0 or step == making.steps - 1:
            seconds = time.monotonic() - started
            report({"step": step, "loss": round(loss.item(), 4), "tokens": tokens, "seconds": round(seconds, 1)})
    source.close()
    return model.to("cpu").eval()


def learning_rate_factor(done: float) -> float:
    """Share of the peak learning rate when a share ``done`` of the steps is done."""
    if done < 0.02:
        return max(done, 1e-4) / 0.02
    return 0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * (done - 0.02) / 0.98)))


def main() -> None:
    """Train, save, and print the settings as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the model's folder, new or empty")
    parser.add_argument("--seed", type=int, default=Making.seed, help="of the corpus and the initial weights")
    parser.add_argument("--steps", type=int, default=Making.steps)
    parser.add_argument("--learning-rate", type=float, default=Making.learning_rate, help="peak")
    parser.add_argument("--processes", type=int, default=2, help="that write the corpus, beside this one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="compile the network first (a minute)")
    options = parser.parse_args()
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        parser.error(f"--out {options.out}: exists and is not an empty folder; name a new one")
    # Found out now, not after hours of training.
    options.out.mkdir(parents=True, exist_ok=True)
    making = Making(seed=options.seed, steps=options.steps, learning_rate=options.learning_rate)
    model = train(
        making,
        device=options.device,
        processes=options.processes,
        compiled=options.compile,
        report=lambda row: print(json.dumps(row), file=sys.stderr, flush=True),
    )
    save_model(model, options.out, making)
    print(json.dumps({"model": str(options.out), **asdict(making)}))


if __name__ == "__main__":
    main()
