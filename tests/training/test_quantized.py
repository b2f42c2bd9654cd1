"""A base in 4 bits, with a bitsandbytes of the test's own.

It is not installed with the other packages: PEFT imports it wherever it finds
it, a second of every task's start, and nothing else here needs it.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hpcmaf.training.spec import FinetuneJob
from tests.training.conftest import (
    COMMON,
    LORA,
    Outcome,
    chats,
    is_an_adapter_like,
    run_batch,
    write_lines,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("quantized")
    packages = folder / "packages"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages)]
    subprocess.run([*command, "bitsandbytes>=0.49"], check=True)
    data = write_lines(folder / "data.jsonl", chats())
    plain = FinetuneJob(base=str(bases["llama"]), dataset=str(data), output=str(folder / "out"), lora=LORA, **COMMON)
    jobs = {"plain": plain, "quantized": replace(plain, quantize="4bit", zero_stage=2, processes=2)}
    return run_batch(folder, jobs, packages=packages)


def test_it_trains_nearly_alike(outcomes):
    losses, plain = (outcomes[name].report["losses"] for name in ("quantized", "plain"))
    assert losses[-1] < losses[0] and losses == pytest.approx(plain, abs=0.1)
    assert losses != pytest.approx(plain, abs=1e-4)
    assert "in 4 bits; ZeRO-2" in outcomes["quantized"].log.read_text()


def test_its_adapter_is_one_like_any_other(outcomes):
    is_an_adapter_like(outcomes["quantized"], outcomes["plain"])
