"""Texts that share a row: the same loss and gradient as texts alone, and nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmaf.training.data import TokenSample, collate, share

lengths = st.lists(st.integers(2, 30), min_size=1, max_size=40)
WINDOW = 6


def sample(name: str, length: int) -> TokenSample:
    # Every token of its own, and targets in the second half.
    ids = [(7 * at + 3 * len(name) + 11 * length) % 90 + 6 for at in range(length)]
    return TokenSample(name, ids, [at >= length // 2 for at in range(length)])


@given(lengths, st.integers(1, 4), st.integers(30, 100))
def test_every_sample_is_packed_once_and_no_pass_is_too_long(sizes, processes, capacity):
    batch = [sample(f"s{at}", size) for at, size in enumerate(sizes)]
    shares = [share(batch, rank=r, processes=processes, micro_batch_size=1, capacity=capacity) for r in range(processes)]
    assert len({len(own) for own in shares}) == 1
    passes = [texts for own in shares for texts in own]
    assert sorted(s.id for texts in passes for s in texts) == sorted(s.id for s in batch)
    assert all(sum(len(s.input_ids) for s in texts) <= capacity for texts in passes)
    # Nobody waits for another by more than a text.
    loads = [sum(len(s.input_ids) for s in texts) for texts in passes if texts]
    assert max(loads) - min(loads) <= 30


def test_packing_fills_the_passes():
    batch = [sample(f"s{at}", 10) for at in range(32)]

    def passes(count: int, processes: int, capacity: int) -> list[int]:
        settings = {"processes": processes, "micro_batch_size": 1, "capacity": capacity}
        return [len(texts) for rank in range(processes) for texts in share(batch[:count], rank=rank, **settings)]

    assert passes(32, 1, 160) == [16, 16] and passes(32, 2, 100) == [8] * 4
    assert passes(32, 3, 1000) == [11, 11, 10] and passes(2, 4, 100) == [1, 1, 0, 0]


@pytest.mark.slow
def test_packed_tensors_have_no_padding_and_predict_nothing_across_texts():
    rows = [TokenSample("a", [5, 6, 7], [False, False, True]), TokenSample("b", [8, 9], [True, True])]
    batch = collate(rows, pad_id=0, filler=rows[0], packed=True)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9]] and batch.lengths == (3, 2)
    assert batch.attention_mask is None
    assert (batch.keep.tolist(), batch.labels.tolist()) == ([1, 3], [[7, 9]])
    empty = collate([], pad_id=0, filler=rows[0], packed=True)
    assert empty.lengths == (3,) and set(empty.labels.flatten().tolist()) == {-100}


def alone():
    import torch

    from hpcmaf.training.process import Process

    return Process(0, 1, torch.device("cpu"))


def tiny(make: str, **settings):
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
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config)


def loss_and_gradients(model, rows, packed: bool):
    import torch

    from hpcmaf.training.objective import negative_log_likelihood

    model.zero_grad()
    micros = [rows] if packed else [[row] for row in rows]
    total = torch.zeros(())
    for micro in micros:
        nll = negative_log_likelihood(model, collate(micro, pad_id=0, filler=rows[0], packed=packed), total.device).sum()
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

    from hpcmaf.training.packing import Packing

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
    import torch

    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(query, key, value, is_causal=causal, scale=scaling, enable_gqa=True).transpose(1, 2), None


@pytest.mark.slow
def test_all_processes_pack_or_none_does():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.training.verdict"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "process 0 packs: False" in done.stdout and "process 1 packs: False" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_a_leak_between_texts_is_found(monkeypatch, capsys, causal, rounded, alike):
    import torch

    from hpcmaf.training import packing as packable
    from hpcmaf.training.fp8 import round_base

    monkeypatch.setattr(packable, "packed_attention", partial(leaky, causal=causal))
    model = tiny("llama").train()
    # Weights as large as trained ones, or attention hardly matters.
    for parameter in model.parameters():
        parameter.data *= 8
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

    from hpcmaf.training.packing import Packing

    model = tiny(make, **settings)
    packing = Packing(model, 300)
    packing.check(model, [sample("a", 30), sample("bb", 20)], alone())
    assert not packing.on and model.config._attn_implementation != "hpcmaf_packed"
    assert said in capsys.readouterr().out


@pytest.mark.slow  # imports torch
def test_gradients_are_summed_in_a_fixed_order_for_one_operation_alone():
    import torch

    from hpcmaf.training.attention import in_fixed_order

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
