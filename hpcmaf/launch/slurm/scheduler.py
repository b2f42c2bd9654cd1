"""Slurm as a scheduler: job arrays in windows, with gates behind them that move the run on.

A gate is a small job that starts once those before it have ended, and advances the run again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from hpcmaf.config.profile import Profile
from hpcmaf.errors import SlurmError
from hpcmaf.files.publish import write_text
from hpcmaf.launch.scheduler import Scheduler, States, Stop, write_stop
from hpcmaf.launch.slurm.causes import find_causes, nodes_to_avoid
from hpcmaf.launch.slurm.commands import Job, Result, cancel, configuration, patiently, queue, sbatch
from hpcmaf.launch.slurm.refusals import ControllerAbsentError, DependencyError, NoNodeError, SubmitLimitError
from hpcmaf.launch.slurm.script import (
    array_limit,
    as_gate,
    batch_script,
    dependency,
    job_name,
    parameters,
    run_tag,
    windows,
)
from hpcmaf.launch.slurm.snapshot import Snapshot, ended_jobs, release
from hpcmaf.launch.slurm.submissions import Cause, Element, Submission, Submissions
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage, TaskKey

LONGEST_WATCH_SECONDS = 3600.0
# A file server may show a marker a little after its job has ended.
_MARKER_SECONDS = 5.0


@dataclass
class Slurm(Scheduler):
    """Moves one run on; whoever uses it holds the run (``RunDir.drive``).

    Parameters
    ----------
    patience
        Seconds to wait for a controller that does not answer.
    """

    run: RunDir
    plan: Plan
    profile: Profile
    patience: float
    submitted: list[Submission] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cluster = self.profile.cluster
        self.log = self._open_log()
        self.log.start()
        self.tag = run_tag(self.run.root, self.log.nonce)
        self._max_array_size = self.cluster.max_array_size
        self._seen = Snapshot(self.plan, {})
        self._limit: SubmitLimitError | None = None

    # --- what all schedulers do ----------------------------------------------
    def states(self) -> Snapshot:
        """One squeue, and the markers."""
        self._seen = Snapshot.take(self.run, self.plan, self.log, self._queue())
        release(self._seen, self.log, self.cluster, self.say)
        return self._seen

    def submit(self, stage: Stage, tasks: Sequence[str], *, halvings: int = 0, exclude: Sequence[str] = ()) -> None:
        """Submit tasks in windows; what Slurm has no place for is left."""
        sent: list[list[str]] = []  # of each window, which Slurm may take in parts only
        beside = [] if halvings else self._evaluation_beside(stage)
        for window in windows(stage, tasks, self.profile, self.array_limit(), beside):
            behind = [] if window.behind is None else sent[window.behind]
            sent.append([])
            left, size = window.elements, len(window.elements)
            while left and size and self._limit is None:
                try:
                    job = self._send(stage, left[:size], behind, exclude, halvings=halvings, at_once=window.at_once)
                except SubmitLimitError as error:
                    if size == 1:
                        self._limit = error
                    size //= 2  # whatever fits
                    continue
                sent[-1].append(job.job or "")
                for index in range(size):
                    queued = Job(job.job or "", index if size > 1 else None, job.name, state="PENDING")
                    self._seen.in_flight |= dict.fromkeys(job.keys(index), queued)
                left = left[size:]
                size = min(size, len(left))

    def causes(self, keys: Sequence[TaskKey]) -> dict[TaskKey, Cause]:
        """What a task left behind comes first, then what squeue still knows, then one sacct for the rest."""
        done = self._seen.done

        def ended(silent: Sequence[TaskKey]) -> dict[TaskKey, Job]:
            nonlocal done
            known = self._seen.ended
            if any(key not in known or known[key].state == "COMPLETED" for key in silent):
                time.sleep(_MARKER_SECONDS)
                done = self.run.done_tasks(self.plan)
            left = [(id, task) for id, task in silent if task not in done[id]]
            return ended_jobs(self._seen, self.log, left, seconds=self.cluster.command_seconds, say=self.say)

        controller_start = cache(lambda: self._ask(configuration).get("BOOT_TIME", ""))
        causes = find_causes(self.run, self.plan, self.log, keys, ended, controller_start)
        return {(id, task): cause for (id, task), cause in causes.items() if task not in done[id]}

    def settle(self, states: States) -> None:
        """See that every stage under way has a gate behind all of its jobs, and the run its watch.

        A job may be over before this looks; a gate behind it then starts at once, and nothing is forgotten.
        """
        for stage in states.unfinished():
            while jobs := sorted({job.id for (id, _), job in self._seen.in_flight.items() if id == stage.id}, key=int):
                try:
                    if not any(set(jobs).issubset(gate.after) for gate in self._seen.gates):
                        self._send_gate(stage, jobs)
                    break
                except SubmitLimitError as error:
                    self._limit = error
                    if not self._make_room():
                        raise
        watched = any(not gate.after for gate in self._seen.gates)
        if not watched and self._limit is None and self._seen.in_flight:
            with suppress(SubmitLimitError):  # a luxury
                self._send_gate(states.unfinished()[0], (), begin=self._watch_seconds())
        if self._limit is not None:
            self.say(f"{self._limit}; the rest follows when there is room")
            if not self._seen.in_flight:
                raise self._limit

    def cancel(self, stop: Stop | None = None) -> None:
        """Leave the reason, and cancel what has not started."""
        if stop is not None:
            write_stop(self.run, stop)
            self.say(f"stopped: {stop.reason}")
        others = self.log.by_job().keys() - {os.environ.get("SLURM_JOB_ID")}
        live = {job.id for job in self._queue() if job.id in others and job.live}
        self._ask(partial(cancel, sorted(live), pending_only=True))

    def say(self, line: str) -> None:
        """Into the log of the gate, or to the prompt."""
        print(line, flush=True)

    # --- tasks ---------------------------------------------------------------
    def _evaluation_beside(self, stage: Stage) -> list[str]:
        """Tasks, never submitted, that evaluate the society which debates in a stage, for the same jobs to do."""
        if stage.kind != "debate" or not self.profile.generation.evaluate_with_debate:
            return []
        ready = (one for one in self._seen.ready() if (one.kind, one.iteration) == ("eval", stage.iteration - 1))
        keys = [(one.id, task) for one in ready for task in self._seen.missing(one)]
        return [f"{id}/{task}" for id, task in keys if (id, task) not in self.log.latest]

    # --- sbatch --------------------------------------------------------------
    def _send(
        self,
        stage: Stage,
        elements: Sequence[Element],
        after: Sequence[str],
        exclude: Sequence[str],
        *,
        halvings: int = 0,
        at_once: int | None = None,
        begin: float | None = None,
    ) -> Submission:
        """Submit tasks, or without any a gate, off as many of the nodes to be avoided as leave it any."""
        element = elements[0] if elements and stage.spec.fan_out == "agent" else None
        name = job_name(self.tag, stage.id, element, self.log.sequence + 1, gate=not elements)
        section = stage.spec.resources if elements else "gate"
        values = parameters(self.profile, section, name=name, after=after, exclude=exclude, at_once=at_once)
        if not elements:
            values = as_gate(values, self.run.jobs(stage, name).resolve(), self.run.stopped.resolve(), begin)
        facts = {"halvings": halvings, "plan": self.plan.identity, "minutes": values["time"]}
        self.log.intend(name, stage.id, elements, after=after, **facts)
        try:
            self.log.confirm(name, self._sbatch(stage, values, len(elements), after))
        except SlurmError as error:
            if not isinstance(error, ControllerAbsentError):  # which may have heard
                self.log.refuse(name, str(error))
            if not exclude or not isinstance(error, NoNodeError):
                raise
            return self._send(stage, elements, after, exclude[:-1], halvings=halvings, at_once=at_once, begin=begin)
        self.submitted.append(self.log.submissions[name])
        return self.submitted[-1]

    def _sbatch(self, stage: Stage, values: dict[str, Any], elements: int, after: Sequence[str]) -> str:
        script = self.run.jobs(stage, values["job_name"]).resolve() / "submission.sh"
        script.parent.mkdir(parents=True, exist_ok=True)

        def send(values: dict[str, Any]) -> str:
            write_text(script, batch_script(script.parent, self.cluster.python, values, elements))
            return sbatch(script, values["job_name"], seconds=self.cluster.command_seconds, patience=self.patience)

        try:
            return send(values)
        except DependencyError:
            # Slurm has forgotten a job that this one was to wait for: it ended long ago, or was lost in a crash. There
            # is nothing to wait for.
            known = {job.id for job in self._queue()}
            left = [id for id in after if id in known]
            return send(values | {"dependency": dependency(left) if left else None})

    def _send_gate(self, stage: Stage, after: Sequence[str], begin: float | None = None) -> None:
        """Submit a gate behind jobs, or the watch, which begins at its time."""
        self._seen.gates.append(self._send(stage, (), after, nodes_to_avoid(self.log.verdicts), begin=begin))

    def _watch_seconds(self) -> float:
        """After how long the watch looks, though no job has ended: soon, and later when nothing new was submitted."""
        newest = max((sent.time for sent in self.log.submissions.values() if not sent.gate), default=0.0)
        return min(max(1.0, 4 * self.cluster.settle_seconds, time.time() - newest), LONGEST_WATCH_SECONDS)

    def _make_room(self) -> bool:
        """Take back the watch, else the last task that was queued here, so that a gate has a place; False for none."""
        seconds = self.cluster.command_seconds
        watches = [gate for gate in self._seen.gates if not gate.after]
        if watches:
            cancel([gate.job or "" for gate in watches], seconds=seconds, pending_only=True)
            self._seen.gates = [gate for gate in self._seen.gates if gate.after]
            return True
        in_flight, mine = self._seen.in_flight, {sent.name for sent in self.submitted}
        last = next((job for job in reversed(in_flight.values()) if job.name in mine), None)
        if last is None or len({job.full_id for job in in_flight.values()}) < 2:
            return False
        cancel([last.full_id], seconds=seconds)
        self.log.refuse(last.name, "taken back, to make room for a gate", last.index or 0)
        self._seen.in_flight = {key: job for key, job in in_flight.items() if job is not last}
        return True

    # --- what Slurm is asked -------------------------------------------------
    def array_limit(self) -> int:
        """Most tasks of one job array: the profile's, or what Slurm says."""
        if self._max_array_size is None:
            self._max_array_size = array_limit(self._ask(configuration))
        return self._max_array_size

    def _open_log(self) -> Submissions:
        return Submissions(self.run.submissions)

    def _queue(self) -> list[Job]:
        return self._ask(queue)

    def _ask(self, action: Callable[..., Result]) -> Result:
        return patiently(action, seconds=self.cluster.command_seconds, patience=self.patience)
