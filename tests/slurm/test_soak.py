"""A few minutes of a cluster's worst week; ``python -m tests.slurm.soak`` is the whole of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.soak import soak


@pytest.mark.long
def test_ten_misfortunes_in_a_row(slurm: Cluster, tmp_path: Path) -> None:
    soak(slurm, tmp_path, seed=7, events=10, minutes=1.0, iterations=1)
