"""Gradients looked at as one: the same steps, from far fewer kernels."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("steps") / "made.json"
    command = [sys.executable, "-m", "tests.training.stepping", str(out)]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("stage", [1, 2])
def test_a_step_is_the_same_from_far_fewer_kernels(made, stage):
    own, joined = made[f"{stage} False None"], made[f"{stage} True None"]
    assert own["skipped"] == joined["skipped"] == [False, False]
    assert joined["norms"] == pytest.approx(own["norms"], rel=1e-5) and min(own["norms"]) > 0
    assert joined["weights"] == pytest.approx(own["weights"], rel=1e-5)
    # 28 matrices, of each of which DeepSpeed itself asks twice.
    assert own["kernels"] - joined["kernels"] > 28 * 8


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("damage", ["inf", "nan"])
def test_a_step_with_a_gradient_that_is_not_finite_is_left_out(made, stage, damage):
    value = {"inf": math.inf, "nan": math.nan}[damage]
    own, joined = made[f"{stage} False {value}"], made[f"{stage} True {value}"]
    assert own["skipped"] == joined["skipped"] == [False, True]
    assert joined["weights"] == pytest.approx(own["weights"], rel=1e-5)
    assert joined["weights"] != pytest.approx(made[f"{stage} True None"]["weights"], rel=1e-6)
