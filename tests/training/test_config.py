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
from hpcmaf.training.memory import Memory, Size

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
    job = JOB.replace(schedule=schedule, warmup_ratio=warmup)
    factors = [job.rate_factor(step, steps) for step in range(steps)]
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
# What is left in 16 bits: embeddings, head, norms.
SMALL = replace(LORA, in_4_bits=6_979_000_000)


class Llama8B(SimpleNamespace):
    hidden_size, intermediate_size, num_hidden_layers, vocab_size = 4096, 14336, 32, 128256
    num_attention_heads, num_key_value_heads = 32, 8

    def get_text_config(self):
        return self


def memory(size: Size, processes: int = 1, gib: int | None = None, keeps: dict = {}, **job) -> Memory:
    gpu = None if gib is None else gib * GIB
    return Memory(PASS_OF_4.replace(**job), Llama8B(), size, processes, gpu, **keeps)


@pytest.mark.parametrize(
    ("size", "processes", "offload", "gib", "stage"),
    [
        (LORA, 1, "none", 141, 1),
        (LORA, 8, "none", 80, 1),
        (LORA, 2, "none", 24, 3),
        (SMALL, 2, "none", 12, 2),
        (FULL, 1, "none", 80, 1),
        (FULL, 2, "none", 141, 1),
        (FULL, 2, "none", 80, 3),
        (FULL, 4, "none", 64, 2),
        (FULL, 8, "none", 80, 1),
        (FULL, 8, "none", 40, 3),
        (FULL, 8, "params", 80, 3),
        (FULL, 4, "optimizer", 80, 1),
        (FULL, 4, "none", None, 1),
    ],
)
def test_the_lowest_stage_that_fits(size, processes, offload, gib, stage):
    chosen, why = memory(size, processes, gib, offload=offload).choose_stage()
    assert chosen == stage and why.startswith(f"zero_stage auto: {stage}")
    assert gib is None or offload == "params" or f"GiB of {gib:.1f} GiB on each GPU" in why


def test_needs_are_near_what_was_measured():
    # A base in 4 bits, and the same in 16.
    assert 5 < memory(SMALL).needed(1, 0) / GIB < 7 < 14 < memory(LORA).needed(1, 0) / GIB
    # 8 x 1,024 tokens on an H200: 72 GiB in all without checkpointing, 29 with.
    for checkpointed, gib in ((0, 72), (32, 29)):
        assert memory(LORA).needed(2, memory(LORA).activations(4, checkpointed)) / GIB == pytest.approx(gib, rel=0.2)
    # 7,136 tokens in one pass on an H100, a third of them with logits, nothing checkpointed.
    packed = memory(LORA, keeps={"fused": True, "logits": 1 / 3}, max_length=7136)
    assert packed.needed(1, packed.activations(1, 0)) / GIB == pytest.approx(48.8, rel=0.03)
    pairs, texts = memory(LORA, objective="dpo"), memory(LORA)
    assert pairs.activations(4, 0) == 2 * texts.activations(4, 0), "of two texts"


def test_nothing_is_computed_twice_where_smaller_passes_do():
    job, fused = {"micro_batch_size": 8, "gradient_checkpointing": "auto"}, {"fused": True}
    for gib, expected in ((141, (8, 0)), (80, (5, 0)), (60, (4, 2)), (40, (4, 20)), (24, (2, 32))):
        own = memory(LORA, 1, gib, fused, **job)
        micro, layers, why = own.choose_passes(1)
        assert (micro, layers) == expected and f"{layers} of 32 layers" in why
        assert layers == 32 or own.needed(1, own.activations(micro, layers)) <= 0.92 * gib * GIB
    # All weights of 8 B on two cards of 80 GB: only just.
    assert memory(FULL, 2, 80, fused, **job).choose_passes(3)[:2] == (4, 30)
    assert memory(FULL, 2, 76, fused, **job).choose_passes(3)[:2] == (3, 32)
    # Kernels that keep more leave less room, and such as keep less leave more.
    assert memory(LORA, 1, 80, **job).choose_passes(1)[:2] == (4, 6)
    assert memory(LORA, 1, 80, fused | {"gated": True, "logits": 0.4}, **job).choose_passes(1)[:2] == (7, 0)
    assert memory(LORA, **job).choose_passes(1)[:2] == (8, 0)
