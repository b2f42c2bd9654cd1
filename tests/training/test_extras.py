"""Trainings that need a package which is not there are refused before anything is planned."""

from __future__ import annotations

import sys

import pytest

from hpcmaf.errors import ConfigError
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.profile import load_profile
from hpcmaf.recipe import load_recipe
from hpcmaf.rundir import RunDir


@pytest.mark.parametrize(
    ("override", "package", "extra"),
    [("method=maft-dpo", "trl", "dpo"), ("training.quantize=4bit", "bitsandbytes", "qlora")],
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
