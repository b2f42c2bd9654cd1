"""What a finetuning job may be, what of it needs a package or a GPU that is not there, and which ZeRO stage it gets."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import load_profile
from hpcmaf.config.recipe import Lora, Training
from hpcmaf.errors import ConfigError
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.run.directory import RunDir
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.memory import (
    Keeps,
    Size,
    activations,
    choose_passes,
    choose_stage,
    flop_per_token,
    needed,
)
from hpcmaf.training.schedule import rate_factor

JOB = FinetuneJob(base="b", dataset="d", output="o", lora=Lora(targets=["q_proj"]), start="s")
KEYS = (Path(__file__).parents[2] / "recipes" / "TRAINING.md").read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"tuning": "half"},
        {"zero_stage": 4},
        {"batch_size": 2, "processes": 3},
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"dtype": "int8"},
        {"loss_spike": 0.5},
        {"offload": "optimizer", "zero_stage": 0},
        {"offload": "params", "zero_stage": 2},
        {"offload": "disk"},
        {"quantize": "fp8", "tuning": "full"},
    ],
)
def test_impossible_jobs_are_refused_by_key_in_a_line(change):
    with pytest.raises(ConfigError, match=next(iter(change))) as refused:
        JOB.replace(**change)
    assert "\n" not in str(refused.value)
    if change.keys() <= Training.model_fields.keys():
        with pytest.raises(ConfigError, match=next(iter(change))):
            load_recipe(overrides=[(f"training.{key}", value) for key, value in change.items()])


@given(st.integers(1, 200), st.sampled_from(["linear", "cosine", "constant"]), st.floats(0, 1))
def test_rate_rises_to_one_and_never_leaves_0_to_1(steps, schedule, warmup):
    factors = [rate_factor(step, steps, schedule, warmup) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    top = factors.index(max(factors))
    assert max(factors) == 1 and factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    sizes = ["training.quantize=4bit", "task.train=2", "task.eval=2"]
    with pytest.raises(ConfigError, match=r"bitsandbytes is not installed; pip install 'hpcmaf\[qlora\]'"):
        prepare_run(RunDir(tmp_path / "run"), load_recipe(overrides=sizes), load_profile())
    assert not (tmp_path / "run").exists()
    # Who trains nothing needs none.
    prepare_run(RunDir(tmp_path / "run"), load_recipe(overrides=["method=debate", *sizes]), load_profile())
    assert (tmp_path / "run/plan.json").exists()


def test_every_key_is_documented_with_its_default():
    rows = re.findall(r"^\| (`.*?) \|", KEYS, flags=re.MULTILINE)
    keys = {name.split(".")[0] for row in rows for name in re.findall(r"`([a-z_][a-z_.]*)`", row)}
    assert keys == set(Training.model_fields)
    for key, default in re.findall(r"^\| `([a-z_]+)` \| `?([^`|]+?)`? \|", KEYS, flags=re.MULTILINE):
        value = Training.model_fields[key].default
        assert default == (str(value).lower() if isinstance(value, bool) else str(value)), key


PASS_OF_4 = FinetuneJob(base="b", dataset="d", output="o", micro_batch_size=4)
GIB = 2**30
FULL = Size(8_030_000_000, 8_030_000_000, 2)
LORA = Size(8_030_000_000, 42_000_000, 2)


class Llama8B(SimpleNamespace):
    hidden_size, intermediate_size, num_hidden_layers, vocab_size = 4096, 14336, 32, 128256
    num_attention_heads, num_key_value_heads = 32, 8

    def get_text_config(self):
        return self


@pytest.mark.parametrize(
    ("size", "processes", "offload", "gib", "stage"),
    [
        (LORA, 1, "none", 141, 1),
        (LORA, 8, "none", 80, 1),
        (FULL, 2, "none", 141, 1),
        (FULL, 2, "none", 80, 3),
        (FULL, 4, "none", 64, 2),
        (FULL, 8, "none", 80, 1),
        (FULL, 8, "none", 40, 3),
        (FULL, 8, "params", 80, 3),
        (FULL, 4, "optimizer", 80, 1),
    ],
)
def test_the_lowest_stage_that_fits(size, processes, offload, gib, stage):
    chosen, why = choose_stage(size, processes, offload, 9 * GIB, [gib * GIB] * processes)
    assert chosen == stage and why.startswith(f"zero_stage auto: {stage}")


def test_the_smallest_gpu_decides_and_too_little_is_said():
    assert choose_stage(LORA, 2, "none", 10 * GIB, [141 * GIB, 24 * GIB])[0] == 3
    stage, why = choose_stage(FULL, 1, "none", 10 * GIB, [80 * GIB])
    assert stage == 1 and "GiB of 80.0 GiB on each GPU" in why


def test_a_base_in_4_bits_is_small_and_never_shared_out():
    small = Size(8_030_000_000, 42_000_000, 2, in_4_bits=6_979_000_000)
    # What is left in 16 bits: embeddings, head, norms.
    assert 5 < needed(small, 1, 1, "none", 0) / GIB < 7 < 14 < needed(LORA, 1, 1, "none", 0) / GIB
    assert choose_stage(small, 2, "none", 10 * GIB, [12 * GIB] * 2)[0] == 2
    assert choose_stage(LORA, 2, "none", 10 * GIB, [12 * GIB] * 2)[0] == 3


def test_activations_are_near_what_was_measured():
    """8 x 1,024 tokens on an H200: 72 GiB in all without checkpointing, 29 with."""
    passing = activations(PASS_OF_4, Llama8B())
    assert 0.8 < (needed(LORA, 2, 1, "none", passing) / GIB) / 72 < 1.25
    checkpointed = activations(PASS_OF_4.replace(gradient_checkpointing=True), Llama8B())
    assert 0.8 < (needed(LORA, 2, 1, "none", checkpointed) / GIB) / 29 < 1.25
    # 7,136 tokens in one pass on an H100, a third of them with logits, nothing checkpointed.
    packed = PASS_OF_4.replace(micro_batch_size=1, max_length=7136)
    passing = activations(packed, Llama8B(), checkpointed=0, keeps=Keeps(fused=True, logits=1 / 3))
    assert needed(LORA, 1, 1, "none", passing) / GIB == pytest.approx(48.8, rel=0.03)
    assert activations(PASS_OF_4.replace(objective="dpo"), Llama8B()) == 2 * activations(PASS_OF_4, Llama8B()), "of two texts"


def test_nothing_is_computed_twice_where_smaller_passes_do():
    job = PASS_OF_4.replace(micro_batch_size=8, gradient_checkpointing="auto")
    keeps = Keeps(fused=True)
    for gib, expected in ((141, (8, 0)), (80, (5, 0)), (60, (4, 2)), (40, (4, 20)), (24, (2, 32))):
        micro, layers, why = choose_passes(LORA, 1, 1, job, Llama8B(), [gib * GIB], keeps)
        assert (micro, layers) == expected and f"{layers} of 32 layers" in why
        cut = job.replace(micro_batch_size=micro)
        passing = activations(cut, Llama8B(), checkpointed=layers, keeps=keeps)
        assert layers == 32 or needed(LORA, 1, 1, "none", passing) <= 0.92 * gib * GIB
    # All weights of 8 B on two cards of 80 GB: only just.
    assert choose_passes(FULL, 3, 2, job, Llama8B(), [80 * GIB] * 2, keeps)[:2] == (4, 30)
    assert choose_passes(FULL, 3, 2, job, Llama8B(), [76 * GIB] * 2, keeps)[:2] == (3, 32)
    # Kernels that keep more leave less room, and such as keep less leave more.
    assert choose_passes(LORA, 1, 1, job, Llama8B(), [80 * GIB], Keeps())[:2] == (4, 6)
    assert choose_passes(LORA, 1, 1, job, Llama8B(), [80 * GIB], replace(keeps, gated=True, logits=0.4))[:2] == (7, 0)
    assert choose_passes(LORA, 1, 1, job, Llama8B(), [], Keeps())[:2] == (8, 0)


def test_useful_work():
    assert flop_per_token(FULL, PASS_OF_4.replace(tuning="full")) == 6 * FULL.parameters
    assert flop_per_token(LORA, PASS_OF_4) == pytest.approx(4 * LORA.parameters, rel=0.01)
