"""Runs on the test cluster: made, started, waited for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import Profile
from hpcmaf.files.yaml import apply_overrides, validate
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.launch.scheduler import Stop, read_stop
from hpcmaf.launch.slurm.gate import submit
from hpcmaf.launch.slurm.scheduler import Slurm
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan
from tests.slurm.client import Client
from tests.slurm.errands import python_for

SITE: dict[str, Any] = {
    "name": "test",
    "launcher": "slurm",
    "generation": {"device": "cpu", "problems_per_shard": 4, "batch_size": 64},
    "finetuning": {"device": "cpu"},
    "slurm": {
        "partition": "main",
        "signal_seconds": 20,
        "command_seconds": 15,
        "patience_minutes": 2,
        "settle_seconds": 1,
        "generation": {"minutes": 5, "cpus": 1},
        "finetuning": {"minutes": 5, "cpus": 1},
        "merge": {"minutes": 5},
        "gate": {"minutes": 5},
    },
}
SHAPE = ("debate.agents=2", "task.train=12", "task.eval=8")
# Of the base alone: two stages, three tasks in the first.
SHORT = ("debate.agents=2", "task.train=4", "task.eval=12")


class Watched:
    """A run on the cluster, to be waited for."""

    def __init__(self, slurm: Client, run: RunDir) -> None:
        self.slurm, self.run = slurm, run

    def stopped(self) -> Stop | None:
        return read_stop(self.run)

    def wait(self, what: str, true: Callable[[], object], timeout: float = 30) -> None:
        end = time.monotonic() + timeout
        while not true():
            stop = self.stopped()
            assert stop is None, f"the chain stopped before {what}: {stop}\n{self.account()}"
            assert time.monotonic() < end, f"{timeout:g} s passed before {what}\n{self.account()}"
            time.sleep(0.1)

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.run.submissions.read_text().splitlines()]
        return [line for line in lines if line["event"] == kind]

    def account(self) -> str:
        """What a failed test has to say."""
        jobs = "\n".join(
            f"{job['name']} {job['array_task']} {job['state']} {job['reason']}" for job in self.slurm.jobs()
        )
        done = {stage: sorted(tasks) for stage, tasks in self.run.done_tasks(self.run.load_plan()).items() if tasks}
        logs = [
            f"--- {log}\n{log.read_text(errors='replace')[-1500:]}"
            for log in sorted(self.run.root.glob("it*/jobs/*/*_log.err"))[-6:]
        ]
        return f"done: {done}\n{jobs}\n" + "\n".join(logs)


class Loop(Watched):
    """One run of errands on the cluster."""

    def __init__(self, slurm: Client, root: Path, *site: str, iters: int = 1, shape: tuple[str, ...] = SHAPE) -> None:
        super().__init__(slurm, RunDir(root))
        if "slurm.python" not in " ".join(site):
            site = (*site, f"slurm.python={python_for(root.parent / 'errand-python')}")
        self.profile = profile(*site)
        self.plan: Plan = prepare_run(self.run, load_recipe(overrides=shape, iterations=iters), self.profile)

    @classmethod
    def short(cls, slurm: Client, root: Path, *site: str, shape: tuple[str, ...] = SHORT) -> Loop:
        """A run that evaluates the base and no more: for what may happen to any stage."""
        return cls(slurm, root, *site, iters=0, shape=shape)

    def start(self) -> Slurm:
        with self.run.drive(900):
            return submit(self.run, self.plan, self.profile)

    def done(self) -> bool:
        done = self.run.done_tasks(self.plan)
        return all(len(done[stage.id]) == len(stage.tasks) for stage in self.plan.stages)

    def finish(self, timeout: float = 90) -> None:
        """Wait until everything is done; a chain that stops, or is silent for so long, fails the test."""
        self.wait("the run was done", self.done, timeout)

    def reports(self) -> None:
        """Wait until the last gate has written the report."""
        self.wait("the report was written", lambda: reported(self.run), 60)

    def stops(self, timeout: float = 60) -> Stop:
        """Wait until the chain stops; returns the reason file."""
        end = time.monotonic() + timeout
        while (stop := self.stopped()) is None:
            assert time.monotonic() < end, f"the chain did not stop\n{self.account()}"
            assert not self.done(), "the run came to its end"
            time.sleep(0.2)
        return stop

    def task(self, stage: str, task: str) -> dict[str, str] | None:
        """The cluster's line about the newest job that works on a task."""
        for line in reversed(self.events("intent")):
            for index, element in enumerate(line["elements"]):
                if line["stage"] == stage and task in element:
                    jobs = [job for job in self.slurm.jobs() if job["name"] == line["name"]]
                    return next((job for job in jobs if job["array_task"] in {str(index), "N/A"}), None)
        return None

    def running_on(self, stage: str, task: str) -> str | None:
        """The node where a task's work has begun."""
        number, kind = int(stage[2:4]), stage.partition("/")[2]
        attempts = self.run.iteration(number) / "attempts" / f"{kind}.{task}"
        job = self.task(stage, task)
        begun = list(attempts.glob("[0-9]*/attempt.json"))
        return job["nodes"] if job and job["state"] == "RUNNING" and begun else None

    def verdicts(self, stage: str = "", task: str = "") -> list[str]:
        """Kinds of causes, in order."""
        return [
            line["kind"]
            for line in self.events("verdict")
            if (not stage or line["stage"] == stage) and (not task or line["task"] == task)
        ]

    def errands(self, stage: str, task: str) -> list[str]:
        """``node halvings`` of every attempt that did a task's work."""
        number, kind = int(stage[2:4]), stage.partition("/")[2]
        return (self.run.iteration(number) / "errands" / f"{kind}.{task}").read_text().splitlines()

    def all_once(self) -> None:
        """Every task's work was done exactly once."""
        for stage in self.plan.stages:
            for task in stage.tasks:
                assert len(self.errands(stage.id, task)) == 1, f"{stage.id} {task}"


def reported(run: RunDir) -> bool:
    """Whether the last gate has written the whole report."""
    names = {path.name for path in run.report.glob("*")} if run.report.is_dir() else set()
    return {"report.md", "report.json", "report.html"} <= names and not list(run.report.glob(".*.tmp"))


def profile(*site: str) -> Profile:
    """The tests' site, with overrides."""
    return validate(Profile, apply_overrides(SITE, site), "tests")
