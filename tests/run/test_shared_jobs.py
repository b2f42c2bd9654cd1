"""On one machine, agents beyond one per slot share a job: who is in it, and what its end means for each."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpcmaf.launch.local import Local, Servers
from hpcmaf.launch.progress import Watcher
from hpcmaf.run.attempts import begin, leave_cause
from hpcmaf.run.plan import Stage
from tests.run.test_recovery import finish, planned, profile

AGENTS = ["generator-0", "generator-1", "generator-2", "critic-0", "critic-1", "critic-2"]


class Job:
    """A job that ends when the test says so."""

    job_id = "1"
    paths = SimpleNamespace(stderr="job.err")

    def __init__(self, tasks: list[str], name: str) -> None:
        self.tasks, self.name, self.over = tasks, name, False

    def done(self) -> bool:
        return self.over


class Machine:
    """A run whose last finetuning is all that is left, and the jobs its driver starts."""

    def __init__(self, root: Path, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, plan = planned(root)
        self.stage: Stage = plan.stage("it02/finetune")
        for task in AGENTS:
            self.run.marker(self.stage, task).unlink()
        self.text, self.jobs = io.StringIO(), list[Job]()
        watcher = Watcher(self.run, plan, profile(f"jobs={slots}"), self.text)
        self.here = Local(self.run, plan, profile(f"jobs={slots}"), watcher, Servers(profile(), root))
        monkeypatch.setattr(self.here, "_submit_job", self._submit)

    def _submit(self, stage: Stage, tasks: tuple[str, ...], name: str, *_: object) -> Job:
        self.jobs.append(Job(list(tasks), name))
        return self.jobs[-1]

    def began(self, task: str) -> Path:
        return begin(self.run.attempts(self.stage, task), {"submission": self.jobs[-1].name, "log": "job.err"})


@pytest.mark.parametrize(
    ("slots", "shares"),
    [
        (1, [AGENTS]),
        (2, [AGENTS[:3], AGENTS[3:]]),
        (4, [AGENTS[:2], AGENTS[2:4], AGENTS[4:]]),
        (8, [[agent] for agent in AGENTS]),
    ],
)
def test_agents_are_divided_over_the_slots(
    slots: int, shares: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path / "run", slots, monkeypatch)
    assert machine.here.step() and machine.here.step()
    assert [job.tasks for job in machine.jobs] == shares


def test_a_killed_job_counts_against_the_agent_whose_turn_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has done counts while it goes on."""
    machine = Machine(tmp_path / "run", 1, monkeypatch)
    for attempt in range(1, profile().attempts + 1):
        machine.here.step()
        finish(machine.run, machine.stage, "generator-0")
        machine.here.step()
        assert "it02/finetune generator-0 done" in machine.text.getvalue() and len(machine.jobs) == attempt
        machine.began("generator-1")
        machine.jobs[-1].over = True
    # Killed twice, it is believed to want for memory: its next batches are halved, the others' are not.
    assert [job.tasks for job in machine.jobs] == [AGENTS, AGENTS[1:], ["generator-1"]]
    while machine.here.step():
        pass
    verdicts = {task: [one.kind for one in found] for (_, task), found in machine.here.log.verdicts.items()}
    assert verdicts == {"generator-1": ["killed"] * 3} | {agent: ["lost"] * 2 for agent in AGENTS[2:]}
    assert "generator-1: killed" in str(machine.here.failure) and "attempt 3 of 3" in str(machine.here.failure)


def test_a_failure_is_told_and_the_others_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path / "run", 1, monkeypatch)
    machine.here.step()
    leave_cause(machine.began("generator-0"), {"type": "DataError", "message": "no data"})
    for task in AGENTS[1:]:
        finish(machine.run, machine.stage, task)
    machine.jobs[0].over = True
    while machine.here.step():
        pass
    assert str(machine.here.failure) == "it02/finetune generator-0: no data; log: job.err"
    assert "critic-2 done" in machine.text.getvalue()
