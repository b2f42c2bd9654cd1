"""Settings every test shares."""

from __future__ import annotations

import os

import pytest

# Nothing here may reach for a hub, and two cores are shared by whole jobs.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: a cluster's jobs keep their test waiting more than computing."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables must not depend on the terminal that runs the tests."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
