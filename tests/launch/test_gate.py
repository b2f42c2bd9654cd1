"""A gate says "never" only when it knows."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest

from hpcmaf.errors import ConfigError, DataError, PlanChangedError, PlatformError, RunBusyError, SlurmError, StoreError
from hpcmaf.launch.scheduler import read_stop
from hpcmaf.launch.slurm.gate import Gate, passing
from hpcmaf.launch.slurm.refusals import ControllerAbsentError, LaterError, NoNodeError, RefusedError, SubmitLimitError
from hpcmaf.run.directory import RunDir
from tests.launch.conftest import SlurmSays
from tests.launch.made_runs import make_run


@pytest.mark.parametrize(
    "error",
    [
        ControllerAbsentError("squeue: no answer in 60 s"),
        SubmitLimitError("sbatch: AssocMaxSubmitJobLimit"),
        LaterError("sbatch: Required partition not available (inactive or drain)"),
        SlurmError("sbatch: the moon is full"),
        RunBusyError("another process is driving this run"),
        OSError(errno.ESTALE, "Stale file handle"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ENOLCK, "No locks available"),
        MemoryError(),
        PlatformError("x: Stale file handle", kind="hardware"),
    ],
)
def test_what_may_be_gone_later_is_no_reason_to_stop(error: Exception) -> None:
    assert passing(error)


@pytest.mark.parametrize(
    "error",
    [
        RefusedError("sbatch: Invalid account"),
        NoNodeError("sbatch: Requested node configuration is not available"),
        DataError("x: torn"),
        StoreError("x: of another schema"),
        ConfigError("x"),
        PlanChangedError("x"),
        ZeroDivisionError("a defect"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EACCES, "Permission denied"),
    ],
)
def test_verdicts_and_defects_are(error: Exception) -> None:
    assert not passing(error)


def test_words_that_nobody_knows_are_believed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "48")
    assert not passing(SlurmError("sbatch: the moon is full"))
    assert passing(ControllerAbsentError("squeue: no answer")) and passing(LaterError("drained"))


class Ended(BaseException):
    """Slurm ends the job that it puts back into the queue."""


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    run, _, _ = make_run(tmp_path / "run", cluster={"command_seconds": 5.0, "patience_minutes": 0.0})

    def sleep(seconds: float) -> None:
        if seconds == 900:
            raise Ended

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    return Gate(str(run.root), patience=0.0)


def test_a_gate_goes_back_into_the_queue_to_begin_later(
    gate: Gate, slurm_says: SlurmSays, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = slurm_says(squeue=1, scontrol="")
    with pytest.raises(Ended):
        gate(())
    asked = calls.read_text()
    assert "scontrol requeue 4711\nscontrol update jobid=4711 StartTime=now+60\n" in asked
    assert not (Path(gate.root) / "stopped.json").exists()
    said = capsys.readouterr().out
    assert "Unable to contact slurm controller; waiting 5 s" in said
    assert "back into the queue, to begin in 1 min" in said


def test_a_gate_stops_the_chain_for_what_will_not_change(gate: Gate, slurm_says: SlurmSays) -> None:
    slurm_says(squeue="", scontrol="MaxArraySize = 1001\n", sbatch="")
    program = Path(slurm_says(srun="")).parent / "bin" / "sbatch"
    program.write_text("#!/bin/sh\necho 'sbatch: error: Invalid account' >&2\nexit 1\n")
    with pytest.raises(RefusedError):
        gate(())
    stop = read_stop(RunDir(Path(gate.root)))
    assert stop is not None and "the gate failed: sbatch: Invalid account" in stop.reason
