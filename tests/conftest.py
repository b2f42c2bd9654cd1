"""Settings every test shares."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Nothing here may reach for a hub, and two cores are shared by whole jobs.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
# Thousands of processes need not compile again what the one before them has compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: a cluster's jobs keep their test waiting more than computing."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each process begin with one of the longest tests, so that none of them is what all others end before.

    Processes are given the collection in as many runs of equal length as
    there are of them (``--dist worksteal``), and what they steal from each
    other is ends of runs. What the last of them take long to install is
    installed meanwhile.
    """
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw0" and any("tests/vllm/" in item.nodeid for item in items):
        words, where = [sys.executable, "-m", "tests.vllm.societies"], items[0].config.rootpath
        subprocess.Popen(words, cwd=where, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    places = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    left, items[:] = len(items), []
    for place in range(places):
        count = left // (places - place)
        left -= count
        mine = long[place::places]
        items += mine + others[: count - len(mine)]
        del others[: count - len(mine)]


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables must not depend on the terminal that runs the tests."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
