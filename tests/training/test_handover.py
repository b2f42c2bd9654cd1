"""Gradients that are not copied on their way to a step: the same steps, digit by digit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[1, 2])
def made(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("handing") / "made.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={request.param}"]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, "-m", "tests.training.handing", str(out)],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return request.param, json.loads(out.read_text())


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_step_of_several_passes_is_the_same_without_copies(made, stage, dtype):
    processes, found = made
    copied, spared = (found[f"{stage} {dtype} {way}"] for way in (False, True))
    assert spared["weights"] == copied["weights"]
    assert spared["norms"] == copied["norms"] and min(copied["norms"]) > 0
    # Of 28 matrices, in each pass under ZeRO-2 and in the last one otherwise; of several processes each owns some.
    passes = 3 * (2 if stage == 2 else 1)
    assert copied["copies"] - spared["copies"] >= passes * 28 // processes
    if processes == 1:
        # What is left begins a pass, as the loss' gradient.
        assert spared["copies"] <= 3 * 2
