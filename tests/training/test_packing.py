"""Texts that share a row: the same loss and gradient as texts alone, and nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from hpcmaf.training import packing as packable
from hpcmaf.training.attention import in_fixed_order
from hpcmaf.training.data import TokenSample, collate
from hpcmaf.training.fp8 import round_base
from hpcmaf.training.objective import negative_log_likelihood
from hpcmaf.training.packing import Packing
from hpcmaf.training.process import Process
from tests.tiny_models import tiny

WINDOW = 6


def sample(name: str, length: int) -> TokenSample:
    # Every token of its own, and targets in the second half.
    ids = [(7 * at + 3 * len(name) + 11 * length) % 90 + 6 for at in range(length)]
    return TokenSample(name, ids, [at >= length // 2 for at in range(length)])


def alone():
    return Process(0, 1, torch.device("cpu"))


def loss_and_gradients(model, rows, packed: bool):
    model.zero_grad()
    micros = [rows] if packed else [[row] for row in rows]
    total = torch.zeros(())
    for micro in micros:
        nll = negative_log_likelihood(model, collate(micro, packed=packed), total.device).sum()
        nll.backward()
        total += nll.detach()
    return total, {name: p.grad.clone() for name, p in model.named_parameters()}


MAKES = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "phi3": {"sliding_window": None},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "gemma3_text": {"sliding_window": WINDOW, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("make", MAKES)
def test_packed_loss_and_gradient_are_the_unpacked_ones(make, checkpointing):

    model = tiny(make, **MAKES[make]).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    rows = [sample(f"s{at}", length) for at, length in enumerate((17, 3, 2, 30, 9))]
    loss, gradients = loss_and_gradients(model, rows, packed=False)
    packing = Packing(model, 30)
    packing.check(model, rows, alone())
    assert packing.on and model.training
    packed_loss, packed_gradients = loss_and_gradients(model, rows, packed=True)
    assert float(packed_loss) == pytest.approx(float(loss), rel=1e-6)
    for name, gradient in gradients.items():
        assert (packed_gradients[name] - gradient).norm() <= 2e-5 * gradient.norm() + 1e-7, name


def leaky(module, query, key, value, mask, scaling=None, causal=True, **_):
    """Attention that knows of no boundaries."""
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(query, key, value, is_causal=causal, scale=scaling, enable_gqa=True).transpose(1, 2), None


def trained(make: str = "llama"):
    """A model whose weights are as large as trained ones, or attention hardly matters."""
    model = tiny(make).train()
    for parameter in model.parameters():
        parameter.data *= 8
    return model


@pytest.mark.slow
def test_all_processes_pack_or_none_does():
    """Attention leaks between texts in process 1, as a kernel that only its GPU has might let it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.training.test_packing"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "process 0 packs: False" in done.stdout and "process 1 packs: False" in done.stdout


def one_of_two() -> None:
    """A process of that test."""
    dist.init_process_group("gloo")
    if dist.get_rank() == 1:
        packable.packed_attention = leaky
    model = trained()
    packing = packable.Packing(model, 30)
    packing.check(model, [sample("a", 30), sample("bb", 20)], Process(dist.get_rank(), 2, torch.device("cpu")))
    print(f"process {dist.get_rank()} packs: {packing.on}", flush=True)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_a_leak_between_texts_is_found(monkeypatch, capsys, causal, rounded, alike):
    monkeypatch.setattr(packable, "packed_attention", partial(leaky, causal=causal))
    model = trained()
    if rounded:
        round_base(model.requires_grad_(False), torch.device("cpu"))
    packing = packable.Packing(model, 30)
    texts = [sample("a", 30), sample("b", 30) if alike else sample("bb", 20)]
    packing.check(model, texts, alone())
    assert not packing.on and model.config._attn_implementation == "sdpa"
    assert "packing: not for this model, texts in one row differ from texts alone" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "settings", "said"),
    [
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "depend on the longest text",
        ),
        ("gemma2", {"head_dim": 8, "attn_logit_softcapping": 20.0}, "not plainly causal (softcap)"),
    ],
)
def test_models_with_an_attention_of_their_own_are_padded(make, settings, said, capsys):
    model = tiny(make, **settings)
    packing = Packing(model, 300)
    packing.check(model, [sample("a", 30), sample("bb", 20)], alone())
    assert not packing.on and model.config._attn_implementation != "hpcmaf_packed"
    assert said in capsys.readouterr().out


@pytest.mark.slow  # imports torch
def test_gradients_are_summed_in_a_fixed_order_for_one_operation_alone():
    seen: dict[str, list[bool]] = {"before": [], "operation": [], "after": []}

    class Noted(torch.autograd.Function):
        """Passes tensors on, and notes in its backward pass whether the deterministic mode is on."""

        @staticmethod
        def forward(context, name, *tensors):
            context.name, context.count = name, len(tensors)
            return sum(tensors)

        @staticmethod
        def backward(context, gradient):
            seen[context.name].append(torch.are_deterministic_algorithms_enabled())
            return (None, *[gradient] * context.count)

    leaf = torch.ones(3, requires_grad=True)
    for _ in range(2):
        inputs = [Noted.apply("after", leaf * scale) for scale in (1, 2, 3)]
        rows = [part[None].transpose(0, 1) for part in inputs]
        output = Noted.apply("operation", *rows)
        in_fixed_order(output, rows)
        Noted.apply("before", output * 2).sum().backward()
    assert seen == {"before": [False] * 2, "operation": [True] * 2, "after": [False] * 6}
    assert not torch.are_deterministic_algorithms_enabled() and leaf.grad.tolist() == [24.0] * 3


if __name__ == "__main__":
    one_of_two()
