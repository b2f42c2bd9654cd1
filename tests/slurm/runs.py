"""Runs on the test cluster: made, started, waited for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import Profile, load_profile
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.launch.scheduler import Stop, read_stop
from hpcmaf.launch.slurm.gate import submit
from hpcmaf.launch.slurm.scheduler import Slurm
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan
from tests.slurm.cluster import Cluster
from tests.slurm.errands import python_for, started

SITE = (
    *("generation.problems_per_shard=4", "slurm.signal_seconds=20", "slurm.command_seconds=15"),
    *("slurm.patience_minutes=2", "slurm.settle_seconds=1"),
)
SHAPE = ("debate.agents=2", "task.train=12", "task.eval=8")
# Of the base alone: two stages, three tasks in the first.
SHORT = ("debate.agents=2", "task.train=4", "task.eval=12")


def profile(*site: str) -> Profile:
    """The tests' site, with overrides."""
    return load_profile("test-cluster", (*SITE, *site))


class Watched:
    """A run on the cluster, to be waited for."""

    def __init__(self, slurm: Cluster, run: RunDir) -> None:
        self.slurm, self.run = slurm, run

    def wait(self, what: str, true: Callable[[], object], timeout: float = 90) -> None:
        """Wait for something; a chain that stops before, or is silent for so long, fails the test."""
        end = time.monotonic() + timeout
        while not true():
            stop = read_stop(self.run)
            assert stop is None, f"the chain stopped before {what}: {stop}\n{self.account()}"
            assert time.monotonic() < end, f"{timeout:g} s passed before {what}\n{self.account()}"
            time.sleep(0.1)

    def reports(self, timeout: float = 90) -> None:
        """Wait until the last gate has written the whole report."""
        names, report = {"report.md", "report.json", "report.html"}, self.run.report

        def reported() -> bool:
            return all((report / name).is_file() for name in names) and not list(report.glob(".*.tmp"))

        self.wait("the report was written", reported, timeout)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Lines of the run's submissions."""
        lines = [json.loads(line) for line in self.run.submissions.read_text().splitlines()]
        return [line for line in lines if line["event"] == kind]

    def task(self, stage: str, task: str) -> dict[str, str] | None:
        """The cluster's line about the newest job that works on a task."""
        for line in reversed(self.events("intent")):
            for index, element in enumerate(line["elements"]):
                if line["stage"] == stage and task in element:
                    jobs = [job for job in self.slurm.jobs() if job["name"] == line["name"]]
                    return next((job for job in jobs if job["array_task"] in {str(index), "N/A"}), None)
        return None

    def account(self) -> str:
        """What a failed test has to say."""
        jobs = [f"{job['name']} {job['array_task']} {job['state']} {job['reason']}" for job in self.slurm.jobs()]
        done = {stage: sorted(tasks) for stage, tasks in self.run.done_tasks(self.run.load_plan()).items() if tasks}
        logs = sorted(self.run.root.glob("it*/jobs/*/*_log.err"))[-6:]
        return "\n".join([f"done: {done}", *jobs, *(f"--- {log}\n{log.read_text()[-1500:]}" for log in logs)])


class Loop(Watched):
    """One run of errands on the cluster; without iterations it evaluates the base and no more."""

    def __init__(self, slurm: Cluster, root: Path, *site: str, iters: int = 0, shape: tuple[str, ...] = ()) -> None:
        super().__init__(slurm, RunDir(root))
        if "slurm.python" not in " ".join(site):
            site = (*site, f"slurm.python={python_for(root.parent / 'errand-python')}")
        recipe = load_recipe(overrides=shape or (SHAPE if iters else SHORT), iterations=iters)
        self.profile = profile(*site)
        self.plan: Plan = prepare_run(self.run, recipe, self.profile)

    def start(self) -> Slurm:
        with self.run.drive(900):
            return submit(self.run, self.plan, self.profile)

    def done(self) -> bool:
        done = self.run.done_tasks(self.plan)
        return all(len(done[stage.id]) == len(stage.tasks) for stage in self.plan.stages)

    def finish(self) -> None:
        """Wait until everything is done; every task's work was done exactly once."""
        self.wait("the run was done", self.done, 240)
        for stage in self.plan.stages:
            for task in stage.tasks:
                assert len(self.errands(stage.id, task)) == 1, f"{stage.id} {task}"

    def stops(self, timeout: float = 60) -> Stop:
        """Wait until the chain stops; returns why."""
        end = time.monotonic() + timeout
        while (stop := read_stop(self.run)) is None:
            assert time.monotonic() < end, f"the chain did not stop\n{self.account()}"
            assert not self.done(), "the run came to its end"
            time.sleep(0.2)
        return stop

    def runs(self, stage: str, task: str) -> str:
        """Wait until a task's work has begun; returns the node."""
        node = ""

        def begun() -> bool:
            nonlocal node
            job = self.task(stage, task)
            node = job["nodes"] if job and job["state"] == "RUNNING" and started(self.run, stage, task) else ""
            return bool(node)

        self.wait(f"{stage} {task} was at work", begun)
        return node

    def verdicts(self, *key: str) -> list[str]:
        """Kinds of causes, in order; of one stage, or of one task of it."""
        lines = self.events("verdict")
        return [line["kind"] for line in lines if key == (line["stage"], line["task"])[: len(key)]]

    def errands(self, stage: str, task: str) -> list[str]:
        """``node halvings`` of every attempt that did a task's work."""
        return (self.run.iteration(int(stage[2:4])) / f"errands/{stage[5:]}.{task}").read_text().splitlines()
