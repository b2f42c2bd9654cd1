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
    ("error", "later"),
    [
        (ControllerAbsentError("squeue: no answer in 60 s"), True),
        (SubmitLimitError("sbatch: AssocMaxSubmitJobLimit"), True),
        (LaterError("sbatch: Required partition not available (inactive or drain)"), True),
        (SlurmError("sbatch: the moon is full"), True),
        (RunBusyError("another process is driving this run"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.ENOLCK, "No locks available"), True),
        (MemoryError(), True),
        (PlatformError("x: Stale file handle", kind="hardware"), True),
        (RefusedError("sbatch: Invalid account"), False),
        (NoNodeError("sbatch: Requested node configuration is not available"), False),
        (DataError("x: torn"), False),
        (StoreError("x: of another schema"), False),
        (ConfigError("x"), False),
        (PlanChangedError("x"), False),
        (ZeroDivisionError("a defect"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (OSError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_only_verdicts_and_defects_are_a_reason_to_stop(
    monkeypatch: pytest.MonkeyPatch, error: Exception, later: bool
) -> None:
    assert passing(error) is later
    monkeypatch.setenv("SLURM_RESTART_COUNT", "48")
    # Words that nobody knows are believed in the end.
    assert passing(error) is (later and type(error) is not SlurmError)


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
