"""Driving a run on one machine: the same stages and dependencies as on a cluster.

The driver keeps no state of its own. It looks at the markers, starts what can
start, and waits; killed at any moment and started again, it goes on.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import submitit

from hpcmaf.attempts import begin, read_cause
from hpcmaf.errors import StageError
from hpcmaf.launch.executors import submit_local
from hpcmaf.launch.progress import Watcher
from hpcmaf.launch.recovery import recover, sweep
from hpcmaf.plan import Plan, Stage
from hpcmaf.profile import Profile
from hpcmaf.rundir import RunDir

POLL_SECONDS = 0.2


@dataclass
class _Running:
    stage: Stage
    task: str
    slot: int
    attempt: Path
    job: submitit.Job[None]
    started: float


class LocalDriver:
    """Runs a plan's tasks through submitit's local executor.

    Parameters
    ----------
    run, plan, profile
        What to run, and with how many tasks side by side.
    watcher
        Is told of everything that happens.
    """

    def __init__(self, run: RunDir, plan: Plan, profile: Profile, watcher: Watcher) -> None:
        self.run = run
        self.plan = plan
        self._identity = plan.identity
        self.profile = profile
        self.watcher = watcher
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
        for line in recover(self.run, self.plan):
            self.watcher.say(line)
        with self.watcher:
            try:
                while self._step():
                    time.sleep(POLL_SECONDS)
            except BaseException:
                self._stop()
                raise
        sweep(self.run, self.plan)
        if self._failure:
            raise self._failure

    def _step(self) -> bool:
        """Look once; returns whether there is anything left to wait for."""
        for running in [running for running in self._running if running.job.done()]:
            self._running.remove(running)
            self._finished(running)
        left = [(stage, task) for stage in self._ready() for task in stage.tasks if not self._done(stage, task)]
        if self._failure is None:
            for stage, task in left:
                if len(self._running) >= self.profile.slots():
                    break
                if not self._is_running(stage, task) and not self.run.claimed(stage, task):
                    self._start(stage, task)
        self.watcher.look(self._running_since())
        return bool(self._running) or (self._failure is None and bool(left))

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
        return any(running.stage.id == stage.id and running.task == task for running in self._running)

    def _running_since(self) -> dict[tuple[str, str], float]:
        return {(running.stage.id, running.task): running.started for running in self._running}

    def _start(self, stage: Stage, task: str) -> None:
        slot = min(set(range(self.profile.slots())) - {running.slot for running in self._running})
        attempt = begin(self.run.attempts(stage, task))
        job = submit_local(self.run, stage, task, attempt, self._identity, self.profile, slot)
        self._running.append(_Running(stage, task, slot, attempt, job, time.monotonic()))
        line = {"stage": stage.id, "task": task, "attempt": attempt.name, "job": job.job_id, "time": time.time()}
        with self.run.submissions.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.watcher.started(stage, task)

    def _finished(self, running: _Running) -> None:
        stage, task = running.stage, running.task
        if self.run.done(stage, task):
            self.watcher.finished(stage, task, time.monotonic() - running.started)
            return
        cause = read_cause(running.attempt)
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

    def _stop(self) -> None:
        for running in self._running:
            running.job.cancel(check=False)
        deadline = time.monotonic() + 10
        while any(not running.job.done() for running in self._running) and time.monotonic() < deadline:
            time.sleep(0.05)
