"""A gate says "never" only when it knows."""

from __future__ import annotations

import errno
from pathlib import Path
from signal import SIG_DFL, SIGUSR2, signal
from threading import Timer

import pytest

from hpcmaf.errors import ConfigError, DataError, PlanChangedError, PlatformError, RunBusyError, SlurmError, StoreError
from hpcmaf.launch.scheduler import read_stop
from hpcmaf.launch.slurm.gate import passing
from hpcmaf.launch.slurm.job import main
from hpcmaf.launch.slurm.refusals import ControllerAbsentError, LaterError, NoNodeError, RefusedError, SubmitLimitError
from tests.launch.conftest import SlurmSays
from tests.launch.made_runs import make_run, submitted


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


def test_a_gate_stops_the_chain_for_what_will_not_change(tmp_path: Path, slurm_says: SlurmSays) -> None:
    """Its node sees what it is for a little late."""
    run, plan, _ = make_run(tmp_path / "run", cluster={"command_seconds": 5.0})
    gate = submitted(run, plan.stages[0], (), None, gate=True)
    late = run.submissions.rename(run.root / "late")
    Timer(0.5, late.rename, [run.submissions]).start()
    slurm_says(squeue="", scontrol="MaxArraySize = 1001\n", sbatch="#!/bin/sh\necho Invalid account >&2\nexit 1\n")
    with pytest.raises(RefusedError):
        main(run.jobs(plan.stages[0], gate.name))
    signal(SIGUSR2, SIG_DFL)
    stop = read_stop(run)
    assert stop is not None and "the gate failed: sbatch: Invalid account" in stop.reason
