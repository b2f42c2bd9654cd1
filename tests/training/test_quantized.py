"""A base in 4 bits, with a bitsandbytes of the test's own.

It is not installed with the other packages: PEFT imports it wherever it finds
it, a second of every task's start, and nothing else here needs it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.conftest import is_an_adapter_like, run_batch


@pytest.mark.slow
def test_it_trains_nearly_alike_and_its_adapter_is_one_like_any_other(outcomes, tmp_path: Path):
    packages, plain = tmp_path / "packages", outcomes["lora-0"]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages)]
    subprocess.run([*command, "bitsandbytes>=0.49"], check=True)
    jobs = {"quantized": plain.job.replace(quantize="4bit", zero_stage=2, processes=2)}
    quantized = run_batch(tmp_path, jobs, packages=packages)["quantized"]
    losses, exact = quantized.report["losses"], plain.report["losses"]
    assert losses[-1] < losses[0] and losses == pytest.approx(exact, abs=0.1)
    assert losses != pytest.approx(exact, abs=1e-4)
    assert "in 4 bits; ZeRO-2" in quantized.log.read_text()
    is_an_adapter_like(quantized, plain)
