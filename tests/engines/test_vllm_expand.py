"""The compact LoRA kernel computes what vLLM's does, as far as that shows without a GPU.

Triton interprets kernels on a CPU. It lies in a folder of its own beside the
packages of the tests, as what finds it among them takes this for a GPU's machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments import made_once, uv

pytestmark = pytest.mark.slow
TRITON = "triton==3.6.0"  # torch 2.11's, which vLLM 0.25 runs on
ROOT = Path(__file__).parents[2]


def triton() -> Path:
    """The folder with Triton."""

    def make(folder: Path) -> None:
        uv("pip", "install", "-q", "--python", sys.executable, "--no-deps", "--target", folder, TRITON)

    return made_once(Path(sys.prefix, "triton", TRITON), make)


@pytest.mark.timeout(300)
def test_the_numbers_are_vllms() -> None:
    setting = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{triton()}"}
    command = [sys.executable, "-m", "tests.engines.interpreted_expand"]
    done = subprocess.run(command, cwd=ROOT, env=setting, capture_output=True, text=True, check=False)
    assert done.stdout == "8 calls\n", done.stderr[-3000:]
