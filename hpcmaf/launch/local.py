"""This machine as a scheduler: as many jobs side by side as it has slots, by submitit's local executor.

Killed at any moment and started again, whoever drives a run goes on.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import submitit

from hpcmaf.config.profile import Profile
from hpcmaf.cores import visible_gpus
from hpcmaf.errors import StageError
from hpcmaf.jobs.context import limit_threads
from hpcmaf.launch.advance import advance, start_afresh, sweep
from hpcmaf.launch.progress import Watcher
from hpcmaf.launch.scheduler import Scheduler, States, Stop
from hpcmaf.launch.slurm.causes import find_causes
from hpcmaf.launch.slurm.commands import Job
from hpcmaf.launch.slurm.job import run_element
from hpcmaf.launch.slurm.script import job_name, run_tag
from hpcmaf.launch.slurm.submissions import Cause, Submissions
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage, TaskKey

POLL_SECONDS = 0.2
# submitit wants a limit; a laptop has none. Thirty days.
_NO_LIMIT_MINUTES = 30 * 24 * 60


def drive(run: RunDir, plan: Plan, profile: Profile, watcher: Watcher, servers: Servers) -> Iterator[None]:
    """Carry a run on until nothing of it is left; jobs that still run when this is interrupted or closed are stopped.

    Yields after each look, so that one process may carry several runs on by turns.

    Raises
    ------
    RunBusyError
        Somebody else drives it.
    StageError
        A task has failed for good.
    """
    with run.drive():
        scheduler = Local(run, plan, profile, watcher, servers)
        start_afresh(scheduler)
        try:
            while scheduler.step():
                yield
        finally:
            scheduler.cancel()
        sweep(run, scheduler.plan)
    if scheduler.failure is not None:
        raise scheduler.failure


class Servers:
    """What runs on this machine share: its slots, and servers that jobs have started, until the context ends.

    Parameters
    ----------
    root
        Names the servers: jobs that are started meanwhile share them, also those of several runs.
    """

    def __init__(self, profile: Profile, root: Path) -> None:
        # Slots that jobs of all runs take, each with its run and its GPUs.
        self.taken: dict[int, tuple[Path, list[str]]] = {}
        self._lock: Any = None
        if profile.generation.engine == "vllm":
            from hpcmaf.engines import server

            os.environ[server.SHARED] = str(root.resolve())
            self._folder, self._idle = server.servers_folder(os.environ[server.SHARED]), server.idle
            self._lock = server.hold(self._folder / "lock")

    def rest(self) -> None:
        """Free the GPUs of servers that nobody uses, as each was started to: by sleep, by ending, or not at all."""
        if self._lock is None:
            return
        for one in self._idle(file.parent for file in self._folder.glob("*/s*/server.json")):
            todo = one.facts.get("while_training")
            if todo != "share" and not (todo == "sleep" and one.call("POST", "/sleep?level=1")):
                one.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let the servers end, unless a task still uses them."""
        if self._lock:
            self._lock.close()


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
    servers
        Those that jobs share.
    """

    def __init__(self, run: RunDir, plan: Plan, profile: Profile, watcher: Watcher, servers: Servers) -> None:
        self.run, self.plan, self.profile, self.watcher, self.servers = run, plan, profile, watcher, servers
        self.log = Submissions(run.submissions)
        self.failure: StageError | None = None
        self._running: list[_Running] = []

    def states(self) -> States:
        """Notice what has ended."""
        over = [running for running in self._running if running.job.done()]
        self.plan = self.watcher.plan = self.run.shorten(self.plan)
        # What a job did last has its marker by now.
        done = self.run.done_tasks(self.plan)
        for running in self._running:
            for task in [task for task in running.tasks if task in done[running.stage.id]]:
                running.tasks.remove(task)
                self.watcher.finished(running.stage, task, time.monotonic() - running.started)
                running.started = time.monotonic()
        for running in over:
            self._running.remove(running)
            del self.servers.taken[running.slot]
        in_flight = {(running.stage.id, task): running for running in self._running for task in running.tasks}
        return States(self.plan, done, in_flight)

    def submit(self, stage: Stage, tasks: Sequence[str], *, halvings: int = 0, exclude: Sequence[str] = ()) -> None:
        """Start jobs while there are slots for them; what another process works on is left to it.

        Agents beyond one per slot share a job: starting one costs more than training a small model. The profile may say
        how many.
        """
        slots = self.profile.slots()
        agents = stage.spec.fan_out == "agent"
        size = self.profile.agents_per_job or -(-len(stage.tasks) // slots) if agents else 1
        waiting = (task for task in tasks if not self.run.claimed(stage, task))
        for slot in range(slots):
            gpus = self.gpus_of(stage, slot)
            if self._free(slot, gpus) and (part := tuple(islice(waiting, size))):
                self._start(stage, part, slot, halvings)
                self.servers.taken[slot] = self.run.root, gpus

    def _free(self, slot: int, gpus: Sequence[str]) -> bool:
        """Whether no job takes a slot, nor another run's its GPUs; to share those, a profile says how many ``jobs``."""
        others = {gpu for root, theirs in self.servers.taken.values() if root != self.run.root for gpu in theirs}
        return slot not in self.servers.taken and (bool(self.profile.jobs) or others.isdisjoint(gpus))

    def _start(self, stage: Stage, tasks: tuple[str, ...], slot: int, halvings: int) -> None:
        if stage.spec.resources == "finetuning":
            self.servers.rest()
        self.log.start()
        element = tasks if stage.spec.fan_out == "agent" else None
        tag = run_tag(self.run.root, self.log.nonce)
        name = job_name(tag, stage.id, element, self.log.sequence + 1)
        self.log.intend(name, stage.id, [tasks], halvings=halvings, plan=self.plan.identity)
        job = self._submit_job(stage, tasks, name, slot)
        self.log.confirm(name, job.job_id)
        self._running.append(_Running(stage, list(tasks), slot, job, time.monotonic()))

    def gpus_of(self, stage: Stage, slot: int) -> list[str]:
        """GPUs that a slot's job of a stage uses; where there are fewer than all slots need, they are shared in turn."""
        finetuning = stage.spec.resources == "finetuning"
        resources = self.profile.finetuning if finetuning else self.profile.generation
        processes = self.profile.finetuning.processes if finetuning else self.profile.generation.gpus
        gpus = visible_gpus() if resources.device != "cpu" and stage.spec.fan_out != "run" else []
        return [gpus[(slot * processes + k) % len(gpus)] for k in range(min(processes, len(gpus)))]

    def _submit_job(self, stage: Stage, tasks: tuple[str, ...], name: str, slot: int) -> submitit.Job[None]:
        """Start one job."""
        folder = self.run.jobs(stage, name)
        executor = submitit.LocalExecutor(str(folder))
        executor.update_parameters(timeout_min=_NO_LIMIT_MINUTES)
        # submitit hands GPUs on by number only: the job sets them itself.
        threads = limit_threads(self.profile.threads(stage.spec.resources))
        environment = {**threads, "CUDA_VISIBLE_DEVICES": ",".join(self.gpus_of(stage, slot))}
        with _errors_into(folder / "controller.err"):
            return executor.submit(run_job, str(self.run.root.resolve()), name, environment)

    def causes(self, keys: Sequence[TaskKey]) -> dict[TaskKey, Cause]:
        """What the tasks have left."""
        ended = Job("", None, "", state="")
        return find_causes(self.run, self.plan, self.log, keys, lambda silent: dict.fromkeys(silent, ended))

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
        for running in self._running:
            del self.servers.taken[running.slot]

    def stopped(self) -> bool:
        """Whether a task has failed for good."""
        return self.failure is not None

    def say(self, line: str) -> None:
        """Tell whoever watches."""
        self.watcher.say(line)

    def step(self) -> bool:
        """Look, and start what can start; returns whether anything is left to wait for."""
        states = advance(self, self.profile.attempts)
        self.watcher.look([(job.stage.id, job.tasks[0]) for job in self._running if job.tasks])
        return bool(self._running) or (self.failure is None and bool(states.unfinished()))


def run_job(root: str, name: str, environment: Mapping[str, str]) -> None:
    """What a job of this machine runs: a submission of that name."""
    os.environ.update(environment)
    run = RunDir(Path(root))
    failure = run_element(run, Submissions(run.submissions).submissions[name])
    if failure is not None:
        raise failure


@contextmanager
def _errors_into(path: Path) -> Iterator[None]:
    """A file for what processes started inside the block write to their standard error.

    submitit's controller of a local job takes Ctrl-C for a crash and prints a traceback, into the terminal that it has
    inherited.
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
