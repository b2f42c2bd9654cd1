"""Settings every test shares."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict

import pytest

# Nothing here may reach for a hub, and two cores are shared by whole jobs.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
# Thousands of processes need not compile again what the one before them has compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two more than there are cores: a cluster's jobs and servers keep their tests waiting more than computing."""
    return len(os.sched_getaffinity(0)) + 2


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each process begin with its share of the longest tests, go on with whole folders and end with quick tests.

    Processes are given the collection in as many runs of equal length as
    there are of them (``--dist worksteal``), and what they steal from each
    other is ends of runs. So fixtures that take minutes are made once, and
    no test is what all others end before. vLLM, which takes long to
    install, is installed meanwhile.
    """
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw0" and any("tests/vllm/" in item.nodeid for item in items):
        words, where = [sys.executable, "-m", "tests.vllm.societies"], items[0].config.rootpath
        subprocess.Popen(words, cwd=where, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    long, folders, quick = defaultdict(list), defaultdict(list), []
    for item in items:
        if item.get_closest_marker("long"):
            long[item.path.parent if item.get_closest_marker("xdist_group") else item.nodeid].append(item)
        elif item.path in slow:
            folders[item.path.parent].append(item)
        else:
            quick.append(item)
    runs: list[list[pytest.Item]] = [[] for _ in range(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))]
    for units in (long, folders):
        for unit in sorted(units.values(), key=len, reverse=True):
            min(runs, key=len).extend(unit)
    left, items[:] = len(items), []
    for place, run in enumerate(runs):
        count = left // (len(runs) - place)
        left -= count
        items += run + quick[: max(0, count - len(run))]
        del quick[: max(0, count - len(run))]
    items += quick


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables must not depend on the terminal that runs the tests."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
