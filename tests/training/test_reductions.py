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
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_is_the_same_from_far_fewer_kernels(made, stage, fused):
    own, joined = (made[f"{stage} {way} {fused} None"] for way in (False, True))
    assert own["skipped"] == joined["skipped"] == [False] * 3 and joined["left_out"] == 0
    assert joined["norms"] == pytest.approx(own["norms"], rel=1e-5) and min(own["norms"]) > 0
    for ours, theirs in zip(joined["weights"], own["weights"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    # 28 matrices, of each of which DeepSpeed itself asks twice.
    assert own["kernels"] - joined["kernels"] > 28 * 8
    assert own["waits"] > 0 and (joined["waits"] == 0) == fused


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("damage", [math.inf, math.nan])
def test_a_step_with_a_gradient_that_is_not_finite_changes_nothing(made, stage, fused, damage):
    own, joined = (made[f"{stage} {way} {fused} {damage}"] for way in (False, True))
    assert own["skipped"] == [False, True, False]
    # Fused, the kernel leaves it out and nobody else has to know.
    assert joined["skipped"] == ([False] * 3 if fused else own["skipped"])
    assert joined["left_out"] == int(fused)
    assert joined["weights"][1] == joined["weights"][0] != joined["weights"][2]
    assert joined["weights"][1] == pytest.approx(own["weights"][1], rel=1e-4, abs=1e-5)
