"""Settings every test shares."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

# Nothing here may reach for a hub, and two cores are shared by whole jobs.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
# Thousands of processes need not compile again what the one before them has compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What a test may take, by its marks: enough to know which to begin with.
SECONDS = {"long": 150.0, "slurm": 15.0, "slow": 3.0}


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two more than there are cores: a cluster's jobs and servers keep their tests waiting more than computing."""
    return len(os.sched_getaffinity(0)) + 2


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none is what all other processes end before.

    Processes take whole files (``--dist loadfile``), so that no fixture that
    takes minutes is made twice. vLLM, which takes long to install, is
    installed meanwhile.
    """
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw0" and any("tests/vllm/" in item.nodeid for item in items):
        words, where = [sys.executable, "-m", "tests.vllm.societies"], items[0].config.rootpath
        subprocess.Popen(words, cwd=where, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds: dict[Path, float] = defaultdict(float)
    for item in items:
        seconds[item.path] += max((SECONDS.get(mark.name, 0.1) for mark in item.iter_markers()), default=0.1)
    items.sort(key=lambda item: seconds[item.path], reverse=True)


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables must not depend on the terminal that runs the tests."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
