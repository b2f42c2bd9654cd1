"""What a finetuning job may be, and what of it needs a package or a GPU that is not there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import load_profile
from hpcmaf.config.recipe import Lora, Training
from hpcmaf.errors import ConfigError
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.run.directory import RunDir
from hpcmaf.training.config import FinetuneJob, check_gpu_type
from hpcmaf.training.schedule import rate_factor

JOB = FinetuneJob(base="b", dataset="d", output="o", lora=Lora(targets=["q_proj"]), start="s")
KEYS = (Path(__file__).parents[2] / "recipes" / "TRAINING.md").read_text()


def test_a_job_survives_its_file_and_other_files_are_refused(tmp_path):
    path = tmp_path / "job.json"
    JOB.write(path)
    assert FinetuneJob.read(path) == JOB
    for text in ("{", "[]", '{"base": "b"}', '{"bass": "b"}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"job\.json"):
            FinetuneJob.read(path)


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


def test_gpus_that_cannot_multiply_fp8_are_refused(tmp_path):
    """Before anything waits in a queue, where the site says what it has."""
    recipe = load_recipe(overrides=["training.quantize=fp8", "training.zero_stage=auto", "task.train=2", "task.eval=2"])
    with pytest.raises(ConfigError, match=r"training\.quantize: a100, slurm\.gpu_type, cannot multiply fp8") as refused:
        prepare_run(RunDir(tmp_path / "old"), recipe, load_profile("a100"))
    assert "\n" not in str(refused.value) and not (tmp_path / "old").exists()
    prepare_run(RunDir(tmp_path / "new"), recipe, load_profile("h100"))
    assert (tmp_path / "new/plan.json").exists()


def test_gpus_are_known_by_the_names_of_sites():
    old = ("nvidia_a100_80gb_pcie", "V100S", "rtx_a6000", "a100-sxm4", "tesla_t4", "A40")
    for gpu_type in (*old, "h100", "l40s", "rtx_6000_ada", "gb200", "h200_141gb", "nvidia_a1000x", None):
        check_gpu_type(quantize="4bit", gpu_type=gpu_type)
        if gpu_type not in old:
            check_gpu_type(quantize="fp8", gpu_type=gpu_type)
        else:
            with pytest.raises(ConfigError, match="fp8"):
                check_gpu_type(quantize="fp8", gpu_type=gpu_type)


def test_every_key_is_documented_with_its_default():
    rows = re.findall(r"^\| (`.*?) \|", KEYS, flags=re.MULTILINE)
    keys = {name.split(".")[0] for row in rows for name in re.findall(r"`([a-z_][a-z_.]*)`", row)}
    assert keys == set(Training.model_fields)
    for key, default in re.findall(r"^\| `([a-z_]+)` \| `?([^`|]+?)`? \|", KEYS, flags=re.MULTILINE):
        value = Training.model_fields[key].default
        assert default == (str(value).lower() if isinstance(value, bool) else str(value)), key
