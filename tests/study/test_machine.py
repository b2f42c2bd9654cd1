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
from hpcmaf.launch.local import Servers
from hpcmaf.launch.progress import Watcher
from hpcmaf.run.attempts import leave_cause
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Stage
from hpcmaf.study.drive import drive_study, plan_study, savings
from hpcmaf.study.plan import Study, StudyRun
from tests.study.studies import METHODS, PROFILE, Hands, lay_out


class Job:
    """Does its tasks when it is looked at for the third time, or later in other slots than the first."""

    job_id, paths = "1", SimpleNamespace(stderr="job.err")
    # Of those under way: slot to run.
    active: dict[int, str] = {}  # noqa: RUF012

    def __init__(
        self, run: RunDir, stage: Stage, tasks: Sequence[str], name: str, identity: str, _: Profile, slot: int, __: int
    ) -> None:
        assert slot not in Job.active, "a slot is for one job"
        Job.active[slot] = run.root.name
        self.what = (run, stage, list(tasks), identity, {"submission": name, "log": "job.err"})
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
    monkeypatch.setattr(local, "submit_local", Job)
    monkeypatch.setattr("hpcmaf.launch.local.POLL_SECONDS", 0.0)
    Job.active.clear()
    return PROFILE.model_copy(update={"jobs": 3})


def drive(study: Study, profile: Profile) -> str:
    text = io.StringIO()

    def start(one: StudyRun) -> None:
        watcher = Watcher(one.run, one.plan, profile, text, f"{one.run.root.name}: ")
        local.drive(one.run, one.plan, profile, watcher, Servers(profile, study.root))

    drive_study(study, profile, lambda line: print(line, file=text), start, lambda one: False)
    return text.getvalue()


def unfinished(study: Study, profile: Profile) -> list[str]:
    return [
        one.run.root.name
        for one in plan_study(study, profile)
        if any(not one.run.done(stage, task) for stage in one.plan.stages for task in stage.tasks)
    ]


def test_nothing_is_computed_twice(tmp_path: Path, slots: Profile) -> None:
    study = lay_out(tmp_path, METHODS)
    planned = plan_study(study, slots)
    to_compute = sum(tasks - shared for tasks, shared, _ in savings(planned))
    said = drive(study, slots)
    attempts = [path for one in study.runs for path in one.run.root.glob("it*/attempts/*/0*")]
    assert len(attempts) == to_compute
    assert all(one.run.metrics(0).exists() and not one.run.claimed(one.plan.stages[0], "00000") for one in planned)
    assert "taken over from" in said and "arithmetic-micro-maft-seed0: it00/eval 00000 done in" in said


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


def test_interrupted_it_stops_its_jobs_and_lets_go_of_its_runs(
    tmp_path: Path, slots: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = lay_out(tmp_path, METHODS)
    monkeypatch.setattr(local.time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        drive(study, slots)
    assert not Job.active
    for one in study.runs:
        with one.run.drive():
            pass
