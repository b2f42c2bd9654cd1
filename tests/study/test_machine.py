"""A study on one machine: runs beside each other, one that fails, an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcmaf.errors import DataError, StageError
from hpcmaf.jobs import task as entry
from hpcmaf.launch import local
from hpcmaf.run.attempts import leave_cause
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Stage
from hpcmaf.study.drive import open_tasks, plan_study
from hpcmaf.study.plan import Study
from tests.study.studies import METHODS, PROFILE, Job, computed, drive, lay_out, to_compute


def unfinished(study: Study) -> list[str]:
    return [one.run.root.name for one in plan_study(study, PROFILE) if open_tasks(one)]


@pytest.mark.parametrize(("jobs", "runs"), [(None, 1), (3, 2)])
def test_runs_share_a_gpu_where_the_profile_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int | None, runs: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("hpcmaf.config.profile.usable_cores", lambda: 3)
    generation = PROFILE.generation.model_copy(update={"device": "cuda"})
    drive(lay_out(tmp_path, "maft, majority-ft"), PROFILE.model_copy(update={"jobs": jobs, "generation": generation}))
    assert Job.on_one_gpu == runs and Job.together == 2


def test_a_failing_run_does_not_hold_up_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, real = lay_out(tmp_path, METHODS), entry.run_task

    def torn(run: RunDir, stage: Stage, task: str, attempt: Path, identity: str, **settings: Any) -> None:
        if run.root.name.endswith("micro-maft-seed0") and stage.id == "it01/merge":
            leave_cause(attempt, {"type": "DataError", "message": "debate.h5: torn; delete it"})
            raise DataError("debate.h5: torn; delete it")
        real(run, stage, task, attempt, identity, **settings)

    monkeypatch.setattr(entry, "run_task", torn)
    with pytest.raises(StageError, match=r"maft-seed0: .*it01/merge all: debate.h5: torn; delete it"):
        drive(study)
    assert unfinished(study) == ["arithmetic-micro-maft-seed0"]
    monkeypatch.setattr(entry, "run_task", real)
    drive(study)
    assert unfinished(study) == []


def test_interrupted_it_stops_its_jobs_and_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = lay_out(tmp_path, METHODS)

    def interrupt(_: float) -> None:
        if Job.together > 1:
            raise KeyboardInterrupt

    total = to_compute(study)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(local.time, "sleep", interrupt)
        drive(study)
    assert not Job.active and 0 < len(computed(study)) < total
    drive(study)
    assert len(computed(study)) == total
