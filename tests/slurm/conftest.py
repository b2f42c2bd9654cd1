"""A real Slurm cluster for the tests in this folder, healthy and idle before each of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import FOREIGN, Cluster

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever here asks for a cluster is slow and needs Slurm."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four nodes of 8 CPUs and 4 GPUs with accounting, for the whole session."""
    with Cluster.start(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture
def slurm(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, this process's environment pointing at it; afterwards put in order again, whatever the test broke."""
    for name in os.environ:
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)
    for name, value in cluster.settings.items():
        monkeypatch.setenv(name, value)
    yield cluster
    cluster.heal()
