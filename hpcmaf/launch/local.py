"""This machine as a scheduler: as many jobs side by side as it has slots, by submitit's local executor.

Killed at any moment and started again, whoever drives a run goes on.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from pathlib import Path

import submitit

from hpcmaf.config.profile import Profile
from hpcmaf.errors import StageError
from hpcmaf.jobs.context import limit_threads
from hpcmaf.jobs.task import run_tasks
from hpcmaf.launch.advance import advance
from hpcmaf.launch.progress import Watcher
from hpcmaf.launch.scheduler import Scheduler, States
from hpcmaf.launch.slots import Slots
from hpcmaf.launch.slurm.causes import Cause, find_causes
from hpcmaf.launch.slurm.commands import Job
from hpcmaf.launch.slurm.script import job_name, run_tag
from hpcmaf.launch.slurm.submissions import Stop, Submissions
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage

# submitit wants a limit; a laptop has none. Thirty days.
_NO_LIMIT_MINUTES = 30 * 24 * 60


def visible_gpus() -> list[str]:
    """GPUs this process may use, found without loading torch: numbers, or names such as ``GPU-...`` and ``MIG-...``."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        # CUDA reads no further than a name that stands for none, such as -1 or NoDevFiles.
        names = (name.strip() for name in named.split(","))
        return list(takewhile(re.compile(r"\d+$|GPU-|MIG-").match, names))
    return sorted((path.name[6:] for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit()), key=int)


@dataclass
class _Running:
    """A job of one task, or of several that it does one after another.

    Attributes
    ----------
    tasks
        Those that are not done; the first one is being done.
    started
        When the first one's turn began.
    """

    stage: Stage
    tasks: list[str]
    slot: int
    name: str
    job: submitit.Job[None]
    started: float


class Local(Scheduler):
    """Runs a plan's tasks on this machine.

    Parameters
    ----------
    run, plan, profile
        What to run, and with how many tasks side by side.
    watcher
        Shows what happens.
    slots
        Shared with other runs; left out, the profile's.
    """

    def __init__(self, run: RunDir, plan: Plan, profile: Profile, watcher: Watcher, slots: Slots | None = None) -> None:
        self.run, self.plan, self.profile, self.watcher = run, plan, profile, watcher
        self.slots = slots or Slots(profile, run.root)
        self.log = Submissions(run.submissions)
        self.failure: StageError | None = None
        self._running: list[_Running] = []
        self._done: dict[str, set[str]] = {}

    def states(self) -> States:
        """Notice what has ended, and free its slots."""
        over = [running for running in self._running if running.job.done()]
        self.plan = self.watcher.plan = self.run.shorten(self.plan)
        # What a job did last has its marker by now. Markers stay while a run
        # is driven: what is finished is not looked at for days.
        left = tuple(stage for stage in self.plan.stages if len(self._done.get(stage.id, ())) < len(stage.tasks))
        self._done |= self.run.done_tasks(replace(self.plan, stages=left))
        done = self._done
        for running in self._running:
            for task in [task for task in running.tasks if task in done[running.stage.id]]:
                running.tasks.remove(task)
                self.watcher.finished(running.stage, task, time.monotonic() - running.started)
                running.started = time.monotonic()
        for running in over:
            self._running.remove(running)
            self.slots.give(running.slot)
        in_flight = {(running.stage.id, task): running for running in self._running for task in running.tasks}
        return States(self.plan, done, in_flight)

    def submit(self, stage: Stage, tasks: Sequence[str], *, halvings: int = 0, exclude: Sequence[str] = ()) -> None:
        """Start jobs while there are slots for them; what another process works on is left to it.

        Agents beyond one per slot share a job: starting one costs more than
        training a small model. The profile may say how many.
        """
        agents = stage.spec.fan_out == "agent"
        size = self.profile.agents_per_job or -(-len(stage.tasks) // self.slots.count) if agents else 1
        waiting = (task for task in tasks if not self.run.claimed(stage, task))
        while self.slots.free and (part := tuple(islice(waiting, size))):
            self._start(stage, part, halvings)

    def _start(self, stage: Stage, tasks: tuple[str, ...], halvings: int) -> None:
        slot = self.slots.free.pop(0)
        if stage.spec.resources == "finetuning":
            self.slots.rest_servers()
        self.log.start()
        element = tasks if stage.spec.fan_out == "agent" else None
        tag = run_tag(self.run.root, self.log.nonce)
        name = job_name(tag, stage.id, element, self.log.sequence + 1)
        self.log.intend(name, stage.id, [tasks], halvings=halvings)
        job = submit_local(self.run, stage, tasks, name, self.plan.identity, self.profile, slot, halvings)
        self.log.confirm(name, job.job_id)
        self._running.append(_Running(stage, list(tasks), slot, name, job, time.monotonic()))

    def causes(self, states: States, stage: Stage, tasks: Sequence[str]) -> dict[str, Cause]:
        """What the tasks have left."""
        jobs = {task: self.log.latest[stage.id, task][0] for task in tasks}
        ended = {(stage.id, task): Job(one.job or "", None, one.name, state="") for task, one in jobs.items()}
        return find_causes(self.run, self.log, stage, tasks, ended)

    def cancel(self, stop: Stop | None = None) -> None:
        """End what is running, and wait a little for it; with a reason, let it come to its end."""
        if stop is not None:
            self.failure = StageError(stop.reason)
            if self._running:  # else the error follows at once
                self.say(f"{stop.reason}; waiting for {len(self._running)} running task(s)")
            return
        for running in self._running:
            running.job.cancel(check=False)
        deadline = time.monotonic() + 10
        while any(not running.job.done() for running in self._running) and time.monotonic() < deadline:
            time.sleep(0.05)

    def stopped(self) -> bool:
        """Whether a task has failed for good."""
        return self.failure is not None

    def say(self, line: str) -> None:
        """Tell whoever watches."""
        self.watcher.say(line)

    def step(self, states: States | None = None) -> bool:
        """Look, unless that was just done, and start what can start; returns whether anything is left to wait for."""
        states = advance(self, self.profile.attempts, states)
        self.slots.keep_servers()
        self.watcher.look([(job.stage.id, job.tasks[0]) for job in self._running if job.tasks])
        return bool(self._running) or (self.failure is None and bool(states.unfinished()))


def submit_local(
    run: RunDir,
    stage: Stage,
    tasks: Sequence[str],
    name: str,
    plan_identity: str,
    profile: Profile,
    slot: int,
    halvings: int,
) -> submitit.Job[None]:
    """Start one job on this machine.

    Parameters
    ----------
    slot
        Which of the side-by-side places it takes; with GPUs, slots share them
        in turn.
    """
    finetuning = stage.spec.resources == "finetuning"
    resources = profile.finetuning if finetuning else profile.generation
    processes = profile.finetuning.processes if finetuning else profile.generation.gpus
    gpus = visible_gpus() if resources.device != "cpu" and stage.spec.gpus else []
    mine = [gpus[(slot * processes + k) % len(gpus)] for k in range(min(processes, len(gpus)))]
    executor = submitit.LocalExecutor(str(run.jobs(stage, name)))
    executor.update_parameters(timeout_min=_NO_LIMIT_MINUTES)
    # submitit hands GPUs on by number only: the job sets them itself.
    environment = {**limit_threads(profile.threads(stage.spec.resources)), "CUDA_VISIBLE_DEVICES": ",".join(mine)}
    with _errors_into(run.jobs(stage, name) / "controller.err"):
        return executor.submit(
            run_job, str(run.root.resolve()), stage, tuple(tasks), name, plan_identity, environment, halvings
        )


def run_job(
    root: str,
    stage: Stage,
    tasks: tuple[str, ...],
    name: str,
    plan_identity: str,
    environment: Mapping[str, str],
    halvings: int,
) -> None:
    """What a job of this machine runs."""
    os.environ.update(environment)
    job = submitit.JobEnvironment()
    facts = {"submission": name, "job": job.job_id, "log": str(job.paths.stderr)}
    failure = run_tasks(RunDir(Path(root)), stage, tasks, plan_identity, facts=facts, halvings=halvings)
    if failure is not None:
        raise failure


@contextmanager
def _errors_into(path: Path) -> Iterator[None]:
    """A file for what processes started inside the block write to their standard error.

    submitit's controller of a local job takes Ctrl-C for a crash and prints
    a traceback, into the terminal that it has inherited.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
