"""Trainings that need a package which is not there are refused before anything is planned."""

from __future__ import annotations

import sys

import pytest

from hpcmaf.config.profile import load_profile
from hpcmaf.config.recipe import load_recipe
from hpcmaf.errors import ConfigError
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.run.directory import RunDir
from hpcmaf.training.extras import check_gpu_type


@pytest.mark.parametrize(
    ("override", "package", "extra"),
    [("training.quantize=4bit", "bitsandbytes", "qlora")],
)
def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch, override, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package} is not installed; pip install 'hpcmaf\[{extra}\]'"):
        prepare_run(RunDir(tmp_path / "run"), load_recipe(overrides=[override]), load_profile())
    assert not (tmp_path / "run").exists()


def test_nobody_who_trains_nothing_needs_one(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    overrides = ["method=debate", "training.quantize=4bit", "task.train=2", "task.eval=2"]
    prepare_run(RunDir(tmp_path / "run"), load_recipe(overrides=overrides), load_profile())
    assert (tmp_path / "run/plan.json").exists()


@pytest.mark.parametrize("clash", ["tuning=full", "zero_stage=3", "offload=params"])
def test_only_a_whole_frozen_base_lies_in_4_bits(clash):
    with pytest.raises(ConfigError, match="quantize '4bit' goes with tuning lora") as refused:
        load_recipe(overrides=["training.zero_stage=auto", "training.quantize=4bit", f"training.{clash}"])
    assert "\n" not in str(refused.value)


def test_gpus_that_cannot_multiply_fp8_are_refused(tmp_path):
    """Before anything waits in a queue, where the site says what it has."""
    recipe = load_recipe(overrides=["training.quantize=fp8", "training.zero_stage=auto", "task.train=2", "task.eval=2"])
    with pytest.raises(ConfigError, match=r"training\.quantize: a100, slurm\.gpu_type, cannot multiply fp8") as refused:
        prepare_run(RunDir(tmp_path / "old"), recipe, load_profile("a100"))
    assert "\n" not in str(refused.value) and not (tmp_path / "old").exists()
    prepare_run(RunDir(tmp_path / "new"), recipe, load_profile("h100"))
    assert (tmp_path / "new/plan.json").exists()


@pytest.mark.parametrize(
    ("gpu_type", "able"),
    [
        *((name, False) for name in ("nvidia_a100_80gb_pcie", "V100S", "rtx_a6000", "a100-sxm4", "tesla_t4", "A40")),
        *((name, True) for name in ("h100", "l40s", "rtx_6000_ada", "gb200", "h200_141gb", "nvidia_a1000x", None)),
    ],
)
def test_gpus_are_known_by_the_names_of_sites(gpu_type, able):
    for quantize in ("none", "4bit"):
        check_gpu_type(quantize=quantize, gpu_type=gpu_type)
    if able:
        check_gpu_type(quantize="fp8", gpu_type=gpu_type)
    else:
        with pytest.raises(ConfigError, match="fp8"):
            check_gpu_type(quantize="fp8", gpu_type=gpu_type)
