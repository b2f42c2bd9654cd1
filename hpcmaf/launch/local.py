"""Driving a run on one machine: the same stages and dependencies as on a cluster.

The driver keeps no state of its own. It looks at the markers, starts what can
start, and waits; killed at any moment and started again, it goes on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import submitit

from hpcmaf.config.profile import Profile
from hpcmaf.errors import StageError
from hpcmaf.launch.executors import submit_local
from hpcmaf.launch.progress import Watcher
from hpcmaf.launch.recovery import recover, sweep
from hpcmaf.run.attempts import all_attempts, begin
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage

POLL_SECONDS = 0.2


@dataclass
class _Running:
    """A job of one task, or of several that it does one after another.

    Attributes
    ----------
    tasks
        Those that are not done; the first one is being done.
    attempts
        How many attempts at each there were before.
    started
        When the first one's turn began.
    """

    stage: Stage
    tasks: list[str]
    slot: int
    attempts: dict[str, int]
    job: submitit.Job[None]
    started: float


class KeptServers:
    """A run's servers on this machine, kept running between the tasks that use them.

    Parameters
    ----------
    run
        Names them; see ``hpcmaf.engines.server``.
    """

    def __init__(self, run: str) -> None:
        from hpcmaf.engines import server as servers

        self._find = servers.find
        self.folder = servers.servers_folder(run)
        self._servers: dict[Path, Any] = {}

    def keep(self) -> None:
        """Keep servers that were started since, and forget those that have ended."""
        self._servers = {folder: one for folder, one in self._servers.items() if one.alive}
        for folder in set(self.folder.glob("*/s*")) - self._servers.keys():
            if (folder / "server.json").exists() and (found := self._find(folder, b"r")) is not None:
                self._servers[folder] = found

    def rest(self) -> None:
        """Free the GPUs of servers that nobody uses, as each was started to: by sleep, by ending, or not at all."""
        self.keep()
        for one in self._servers.values():
            todo = one.facts["while_training"]
            if todo == "share" or one.users() or (todo == "sleep" and one.control("/sleep?level=1")):
                continue
            one.end()

    def close(self) -> None:
        """Let them end, unless a task still uses them."""
        for one in self._servers.values():
            one.close()
        self._servers.clear()


class Slots:
    """Places for jobs on one machine, and the servers they use; runs that go side by side share them.

    Parameters
    ----------
    profile
        Says how many places there are, and whether there are servers.
    root
        Names the servers: jobs that are started meanwhile share them.
    """

    def __init__(self, profile: Profile, root: Path) -> None:
        self.count = profile.slots()
        self.servers: KeptServers | None = None
        if profile.generation.engine == "vllm":
            from hpcmaf.engines.server import SHARED

            os.environ[SHARED] = str(root.resolve())
            self.servers = KeptServers(os.environ[SHARED])
        self._free = list(range(self.count))

    @property
    def free(self) -> int:
        """How many are free."""
        return len(self._free)

    def take(self) -> int:
        """The number of a free place, from now on taken."""
        return self._free.pop(0)

    def give(self, slot: int) -> None:
        """Free a place again."""
        self._free = sorted([*self._free, slot])

    def close(self) -> None:
        """Let the servers end."""
        if self.servers is not None:
            self.servers.close()


class LocalDriver:
    """Runs a plan's tasks through submitit's local executor.

    Whoever has several runs calls ``begin`` of each, then now and then
    ``collect`` of all before ``launch`` of each in turn, until that says that
    nothing is left, then ``end``; ``drive`` does so for one.

    Parameters
    ----------
    run, plan, profile
        What to run, and with how many tasks side by side.
    watcher
        Is told of everything that happens.
    slots
        Shared with other drivers; left out, the profile's.
    """

    def __init__(self, run: RunDir, plan: Plan, profile: Profile, watcher: Watcher, slots: Slots | None = None) -> None:
        self.run = run
        self.plan = plan
        self._identity = plan.identity
        self.profile = profile
        self.watcher = watcher
        self.slots = slots or Slots(profile, run.root)
        self._running: list[_Running] = []
        self._known_done: set[tuple[str, str]] = set()
        self._killed: dict[tuple[str, str], int] = {}
        self._failure: StageError | None = None

    def drive(self) -> None:
        """Run until everything is done.

        Raises
        ------
        StageError
            A task failed; what was running beside it has ended by then.

        The caller holds the run (``RunDir.drive``).
        """
        self.begin()
        with self.watcher:
            try:
                while self.step():
                    time.sleep(POLL_SECONDS)
            except BaseException:
                self.stop()
                raise
            finally:
                self.slots.close()
        self.end()

    def begin(self) -> None:
        """Put the run in order."""
        for line in recover(self.run, self.plan):
            self.watcher.say(line)

    def end(self) -> None:
        """Tidy up, once nothing is left to wait for.

        Raises
        ------
        StageError
            A task failed.
        """
        sweep(self.run, self.plan)
        if self._failure:
            raise self._failure

    def step(self) -> bool:
        """Look once: ``collect``, then ``launch``."""
        self.collect()
        return self.launch()

    def collect(self) -> None:
        """Notice what has ended, and free its slots."""
        for running in list(self._running):
            over = running.job.done()  # asked first: what it did last has its marker by now
            self._follow(running)
            if over:
                self._running.remove(running)
                self.slots.give(running.slot)
                self._ended(running)

    def launch(self) -> bool:
        """Start what can start while there are slots; returns whether there is anything left to wait for."""
        left = [(stage, [task for task in stage.tasks if not self._done(stage, task)]) for stage in self._ready()]
        if self._failure is None:
            for stage, tasks in left:
                self._start_some(stage, tasks)
        if self.slots.servers is not None:
            self.slots.servers.keep()
        self.watcher.look({(job.stage.id, job.tasks[0]): job.started for job in self._running if job.tasks})
        return bool(self._running) or (self._failure is None and any(tasks for _, tasks in left))

    def _start_some(self, stage: Stage, left: list[str]) -> None:
        """Start jobs while there are slots for them.

        Agents beyond one per slot share a job: starting one costs more than
        training a small model. The profile may say how many.
        """
        waiting = (task for task in left if not self._is_running(stage, task) and not self.run.claimed(stage, task))
        size = self.profile.agents_per_job or -(-len(left) // self.slots.count) if stage.kind == "finetune" else 1
        while self.slots.free and (tasks := list(islice(waiting, size))):
            self._start(stage, tasks)

    def _ready(self) -> list[Stage]:
        """Unfinished stages whose needs are met; training first, evaluation fills the gaps.

        What the next iteration waits for must never queue behind a figure for
        the table.
        """
        done = {stage.id for stage in self.plan.stages if all(self._done(stage, task) for task in stage.tasks)}
        ready = [stage for stage in self.plan.stages if stage.id not in done and done.issuperset(stage.after)]
        return sorted(ready, key=lambda stage: stage.kind in {"eval", "score"})

    def _done(self, stage: Stage, task: str) -> bool:
        # Markers stay while a run is driven. Looking at thousands of them
        # several times a second would be felt on a shared file system.
        key = (stage.id, task)
        if key not in self._known_done and self.run.done(stage, task):
            self._known_done.add(key)
        return key in self._known_done

    def _is_running(self, stage: Stage, task: str) -> bool:
        return any(running.stage.id == stage.id and task in running.tasks for running in self._running)

    def _start(self, stage: Stage, tasks: list[str]) -> None:
        slot = self.slots.take()
        if self.slots.servers is not None and stage.kind == "finetune":
            self.slots.servers.rest()
        before = {task: len(all_attempts(self.run.attempts(stage, task))) for task in tasks}
        attempt = begin(self.run.attempts(stage, tasks[0]))
        job = submit_local(self.run, stage, tasks, attempt, self._identity, self.profile, slot)
        self._running.append(_Running(stage, list(tasks), slot, before, job, time.monotonic()))
        lines = [{"stage": stage.id, "task": task, "job": job.job_id, "time": time.time()} for task in tasks]
        with self.run.submissions.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        self.watcher.started(stage, tasks[0])

    def _follow(self, running: _Running) -> None:
        """Notice what a job has done of its tasks, and the next one's turn."""
        for task in [task for task in running.tasks if self._done(running.stage, task)]:
            running.tasks.remove(task)
            self.watcher.finished(running.stage, task, time.monotonic() - running.started)
            running.started = time.monotonic()
            if running.tasks:
                self.watcher.started(running.stage, running.tasks[0])

    def _ended(self, running: _Running) -> None:
        """Judge what a job that has ended left undone; tasks whose turn never came are simply left."""
        for task in running.tasks:
            attempts = all_attempts(self.run.attempts(running.stage, task))
            if len(attempts) > running.attempts[task]:
                self._judge(running, task, attempts[-1].cause)

    def _judge(self, running: _Running, task: str, cause: Mapping[str, Any] | None) -> None:
        stage = running.stage
        if cause is not None and cause["type"] == "RunBusyError":
            return  # somebody else's copy of the task runs on; its marker will come
        log = running.job.paths.stderr
        if cause is not None:
            self._fail(f"{stage.id} {task}: {cause['message']}; log: {log}")
            return
        # Killed without a word: by the system for memory, or by somebody.
        count = self._killed[stage.id, task] = self._killed.get((stage.id, task), 0) + 1
        if count >= self.profile.attempts:
            self._fail(f"{stage.id} {task}: killed {count} times (out of memory, or disk full?); log: {log}")
        else:
            self.watcher.say(f"{stage.id} {task}: killed; starting it again ({count} of {self.profile.attempts})")

    def _fail(self, message: str) -> None:
        self._failure = self._failure or StageError(message)
        others = len(self._running)
        if others:  # else the error follows at once
            self.watcher.say(f"{message}; waiting for {others} running task(s)")

    def stop(self) -> None:
        """End what is running, and wait a little for it."""
        for running in self._running:
            running.job.cancel(check=False)
        deadline = time.monotonic() + 10
        while any(not running.job.done() for running in self._running) and time.monotonic() < deadline:
            time.sleep(0.05)
