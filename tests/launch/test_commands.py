"""What Slurm's clients say, told apart: a controller that is away, a request that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcmaf.errors import SlurmError
from hpcmaf.launch.slurm.commands import ControllerAbsentError, DependencyError, call

# As clients of Slurm 22.05 wrote them while their controller was killed, restarted or too busy.
AWAY = [
    "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
    "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
    "squeue: slurm_load_jobs error: Zero Bytes were transmitted or received",
    "sbatch: slurm_msg_sendto: address:port=127.0.0.1:19088 msg_type=4003: Unexpected missing socket error\n"
    "sbatch: error: Batch job submission failed: Unexpected missing socket error",
    "sbatch: error: Batch job submission failed: Message receive failure",
    "scancel: error: Kill job error on job id 7: Slurm backup controller in standby mode",
]
REFUSED = [
    "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
    "sbatch: error: Batch job submission failed: Requested node configuration is not available",
    "sbatch: error: invalid partition specified: gpus",
    "sbatch: error: Unable to open file submission.sh",
]


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """A client that fails with what lies beside it."""
    program = tmp_path / "client"
    program.write_text('#!/bin/sh\ncat "$0.said" >&2\nexit 1\n')
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("said", AWAY)
def test_a_controller_that_is_away_is_worth_waiting_for(client: Path, said: str) -> None:
    client.with_name("client.said").write_text(said + "\n")
    with pytest.raises(ControllerAbsentError):
        call([str(client)], seconds=10)


@pytest.mark.parametrize("said", REFUSED)
def test_a_refusal_is_final(client: Path, said: str) -> None:
    client.with_name("client.said").write_text(said + "\n")
    with pytest.raises(SlurmError) as caught:
        call([str(client)], seconds=10)
    assert not isinstance(caught.value, ControllerAbsentError)


def test_an_unknown_dependency_is_neither(client: Path) -> None:
    client.with_name("client.said").write_text(
        "sbatch: error: Batch job submission failed: Job dependency problem\n"
    )
    with pytest.raises(DependencyError):
        call([str(client)], seconds=10)
