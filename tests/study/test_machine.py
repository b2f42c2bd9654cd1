"""A study on one machine, with jobs that this process does itself."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpcmaf.config.profile import Profile
from hpcmaf.errors import DataError, StageError
from hpcmaf.jobs import task as entry
from hpcmaf.launch import local
from hpcmaf.launch.local import Local
from hpcmaf.run.attempts import leave_cause
from hpcmaf.run.plan import Stage
from hpcmaf.study.drive import drive_here, plan_study, savings
from hpcmaf.study.plan import Study
from tests.study.studies import METHODS, PROFILE, Hands, lay_out


class Job:
    """Does its tasks when it is looked at for the third time, or later in other slots than the first."""

    job_id, paths = "1", SimpleNamespace(stderr="job.err")
    # Of those under way: slot to run and its GPUs.
    active: dict[int, tuple[str, list[str]]] = {}  # noqa: RUF012
    # The most runs that had jobs at once, and that had jobs on one GPU at once.
    together = on_one_gpu = 0

    def __init__(self, of: Local, stage: Stage, tasks: Sequence[str], name: str, slot: int, _: int) -> None:
        assert slot not in Job.active, "a slot is for one job"
        Job.active[slot] = of.run.root.name, of.gpus_of(stage, slot)
        Job.together = max(Job.together, len({name for name, _ in Job.active.values()}))
        Job.on_one_gpu = max(Job.on_one_gpu, len({name for name, gpus in Job.active.values() if gpus}))
        self.what = (of.run, stage, list(tasks), of.plan.identity, {"submission": name, "log": "job.err"})
        self.slot, self.looks = slot, 0

    def done(self) -> bool:
        self.looks += 1
        if self.looks == 3 + self.slot:
            del Job.active[self.slot]
            run, stage, tasks, identity, facts = self.what
            entry.run_tasks(run, stage, tasks, identity, facts=facts)  # a failed attempt says so
        return self.looks >= 3 + self.slot

    def cancel(self, check: bool = True) -> None:
        self.looks = 3 + self.slot
        Job.active.pop(self.slot, None)


@pytest.fixture
def slots(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """Of a machine with three of them."""
    monkeypatch.setattr(Local, "_submit_job", lambda *job: Job(*job))
    Job.active.clear()
    Job.together = Job.on_one_gpu = 0
    return PROFILE.model_copy(update={"jobs": 3})


def drive(study: Study, profile: Profile) -> str:
    text = io.StringIO()
    drive_here(study, profile, lambda line: print(line, file=text), text, poll_seconds=0.0)
    return text.getvalue()


def unfinished(study: Study, profile: Profile) -> list[str]:
    return [
        one.run.root.name
        for one in plan_study(study, profile)
        if any(not one.run.done(stage, task) for stage in one.plan.stages for task in stage.tasks)
    ]


def computed(study: Study) -> int:
    return sum(1 for one in study.runs for _ in one.run.root.glob("it*/attempts/*/0*"))


def to_compute(study: Study, profile: Profile) -> int:
    return sum(tasks - shared for tasks, shared, _ in savings(plan_study(study, profile)))


def test_runs_share_the_slots_and_nothing_is_computed_twice(tmp_path: Path, slots: Profile) -> None:
    study = lay_out(tmp_path, METHODS)
    planned, total = plan_study(study, slots), to_compute(study, slots)
    said = drive(study, slots)
    assert Job.together > 1, "one run after the other"
    assert computed(study) == total
    assert all(one.run.metrics(0).exists() and not one.run.claimed(one.plan.stages[0], "00000") for one in planned)
    assert "taken over from" in said and "arithmetic-micro-maft-seed0: it00/eval 00000 done in" in said


@pytest.mark.parametrize(("jobs", "runs"), [(None, 1), (3, 2)])
def test_runs_share_a_gpu_where_the_profile_says_so(
    tmp_path: Path, slots: Profile, monkeypatch: pytest.MonkeyPatch, jobs: int | None, runs: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("hpcmaf.config.profile.usable_cores", lambda: 3)
    generation = slots.generation.model_copy(update={"device": "cuda"})
    drive(lay_out(tmp_path, "maft, majority-ft"), slots.model_copy(update={"jobs": jobs, "generation": generation}))
    assert Job.on_one_gpu == runs and Job.together == 2


def test_a_failing_run_does_not_hold_up_the_others(
    tmp_path: Path, slots: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, real = lay_out(tmp_path, METHODS), entry.run_task

    def torn(root: str, stage: str, task: str, attempt: str, identity: str, **settings: Any) -> None:
        if root.endswith("micro-maft-seed0") and stage == "it01/merge":
            leave_cause(Path(attempt), {"type": "DataError", "message": "debate.h5: torn; delete it"})
            raise DataError("debate.h5: torn; delete it")
        real(root, stage, task, attempt, identity, **settings)

    monkeypatch.setattr(entry, "run_task", torn)
    with pytest.raises(StageError, match=r"maft-seed0: .*it01/merge all: debate.h5: torn; delete it"):
        drive(study, slots)
    assert unfinished(study, slots) == ["arithmetic-micro-maft-seed0"]
    monkeypatch.setattr(entry, "run_task", real)
    drive(study, slots)
    assert unfinished(study, slots) == []


def test_interrupted_it_stops_its_jobs_and_goes_on_later(
    tmp_path: Path, slots: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = lay_out(tmp_path, METHODS)

    def interrupt(_: float) -> None:
        if Job.together > 1:
            raise KeyboardInterrupt

    total = to_compute(study, slots)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(local.time, "sleep", interrupt)
        drive(study, slots)
    assert not Job.active and 0 < computed(study) < total
    drive(study, slots)
    assert computed(study) == total
