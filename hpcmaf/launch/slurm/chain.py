"""The chain of jobs that carries a run through its stages.

``advance`` looks at the run, submits whatever is ready and not queued yet,
and sets a gate behind it: a small job that starts once those have ended, and
advances again. It keeps nothing in memory, may be called by anybody at any
time, and twice is as good as once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hpcmaf.config.profile import Profile
from hpcmaf.errors import SlurmError
from hpcmaf.jobs.task import run_task
from hpcmaf.launch.slurm.causes import Cause, decide, nodes_to_avoid
from hpcmaf.launch.slurm.commands import (
    AccountingAbsentError,
    ControllerAbsentError,
    DependencyError,
    Job,
    NoNodeError,
    SubmitLimitError,
    accounting,
    cancel,
    configuration,
    patiently,
    queue,
    release,
    update,
)
from hpcmaf.launch.slurm.executor import ChainExecutor
from hpcmaf.launch.slurm.losses import find_causes
from hpcmaf.launch.slurm.requests import (
    DEFAULT_MAX_ARRAY_SIZE,
    Element,
    Window,
    array_limit,
    dependency,
    gate_parameters,
    job_name,
    parameters,
    run_tag,
    stage_windows,
)
from hpcmaf.launch.slurm.snapshot import Snapshot, TaskKey
from hpcmaf.launch.slurm.stopped import write_stop
from hpcmaf.launch.slurm.submissions import Submission, Submissions, Verdict
from hpcmaf.launch.slurm.task import ClusterTask, Work
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage

LONGEST_WATCH_SECONDS = 3600.0


@dataclass
class Chain:
    """Moves one run on; whoever uses it holds the run (``RunDir.drive``).

    Parameters
    ----------
    gate
        Makes what a gate runs, from the seconds after which the watch is to look.
    patience
        Seconds to wait for a controller that does not answer.
    watch
        Seconds after which the run is looked at even if none of its jobs ends.
    own_job
        Slurm id of the gate that this runs in, if it does.
    work
        What the jobs run for each task.
    """

    run: RunDir
    plan: Plan
    profile: Profile
    gate: Callable[[float], Callable[[Element], None]]
    patience: float
    watch: float
    own_job: str = ""
    work: Work = run_task
    said: list[str] = field(default_factory=list)
    submitted: list[Submission] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cluster = self.profile.cluster
        if not hasattr(self, "log"):
            self.log = Submissions(self.run.submissions)
        self.log.start()
        self.tag = run_tag(self.run.root, self.log.nonce)
        self._max_array_size = self.cluster.max_array_size
        # Elements that this chain has submitted, the last of which makes room for a gate.
        self._queued: list[tuple[Submission, int]] = []
        self._limit: SubmitLimitError | None = None

    # --- what others call ----------------------------------------------------
    def advance(self) -> Snapshot:
        """Submit what is ready; in a gated chain, with gates behind it.

        What Slurm has no place for is left to the next gate.

        Raises
        ------
        SlurmError
            Slurm refused a request, or was silent for longer than
            ``patience``; what is queued has its gate all the same.
        """
        snapshot = self.look()
        if self.run.stopped.exists():
            return snapshot
        refused: SlurmError | None = None
        for stage in snapshot.ready():
            try:
                if not self._submit_missing(snapshot, stage):
                    return snapshot
            except SlurmError as error:
                refused = refused or error
        self._set_gates(snapshot)
        if self._limit is not None:
            if not snapshot.in_flight and not self._queued:
                refused = refused or self._limit
            self._say(f"{self._limit}; the rest follows when there is room")
        if refused is not None:
            raise refused
        return snapshot

    def queue_all(self) -> Snapshot:
        """Submit everything there is, each stage waiting for those it reads."""
        snapshot = self.look()
        waiting: dict[str, list[str]] = {}
        for stage in snapshot.unfinished():
            ids = {job.id for (id, _), job in snapshot.in_flight.items() if id == stage.id}
            after = [job for needed in stage.after for job in waiting.get(needed, [])]
            ids.update(self._submit(stage, snapshot.missing(stage), after=after))
            waiting[stage.id] = sorted(ids, key=int)
        ends = [job for stage in self.plan.stages if stage.kind == "score" for job in waiting.get(stage.id, [])]
        if ends:
            self._submit_gate(self.plan.stages[-1], ends)
        return snapshot

    def look(self) -> Snapshot:
        """One squeue, and the markers."""
        jobs = self._queue()
        snapshot = Snapshot.take(self.run, self.plan, self.log, jobs, self.own_job)
        if snapshot.twins:
            self._say(f"Slurm was told twice of {', '.join(snapshot.twins)}; cancelling the later ones")
            cancel(snapshot.twins, seconds=self.cluster.command_seconds)
        self._unfetter(snapshot)
        return snapshot

    def _unfetter(self, snapshot: Snapshot) -> None:
        """Release jobs that Slurm holds since their launch failed, and let those go anywhere that have no node left.

        A job that was released before is kept off the node where its launch failed again.
        """
        seconds, last = self.cluster.command_seconds, {}
        if again := {job.partition("_")[0] for job in snapshot.held if self.log.released[job]}:
            try:
                last = {job.full_id: job.nodes for job in accounting(sorted(again), seconds=seconds) if job.nodes}
            except AccountingAbsentError as error:
                self._say(f"no accounting ({error}); where launches failed is not known")
        for job in [*snapshot.held, *snapshot.fenced]:
            node = last.get(job, "") if self.log.released[job] else ""
            try:
                if node or job in snapshot.fenced:
                    update(job, ExcNodeList=",".join(filter(None, [*self.cluster.exclude, node])), seconds=seconds)
                if job in snapshot.held:
                    release(job, seconds=seconds)
                    self.log.release(job)
                why = "could not be launched; released" if job in snapshot.held else "no node is left for it"
                self._say(f"{job}: {why}, to go anywhere{f' but to {node}' if node else ''}")
            except SlurmError as error:  # it has ended meanwhile; the next look tells
                self._say(str(error))

    def stop(self, reason: str, *, stage: str = "", task: str = "", kind: str = "stopped", log: str = "") -> None:
        """End the chain: leave the reason, and cancel what has not started."""
        write_stop(self.run, reason, stage=stage, task=task, kind=kind, log=log)
        self._say(f"stopped: {reason}")
        jobs = self._queue()
        ours = self.log.by_job()
        pending = {job.id for job in jobs if job.id in ours and job.live and job.id != self.own_job}
        patiently(
            lambda: cancel(sorted(pending), seconds=self.cluster.command_seconds, pending_only=True),
            patience=self.patience,
        )

    # --- tasks ---------------------------------------------------------------
    def _submit_missing(self, snapshot: Snapshot, stage: Stage) -> bool:
        """Submit a stage's tasks; returns whether the chain goes on."""
        missing = snapshot.missing(stage)
        fresh = [task for task in missing if (stage.id, task) not in self.log.latest]
        lost = [task for task in missing if (stage.id, task) in self.log.latest]
        # Judged already, but Slurm had no place for another attempt.
        judged = {task: found[-1] for task in lost if (found := self._verdicts_on_latest(stage, task))}
        causes = {task: Cause(one.kind, one.text, node=one.node, progressed=True) for task, one in judged.items()}
        lost = [task for task in lost if task not in judged]
        causes |= find_causes(self.run, snapshot, self.log, stage, lost, self.cluster, self._say)
        again: dict[tuple[int, tuple[str, ...]], list[str]] = {}
        for task, cause in causes.items():
            key = (stage.id, task)
            earlier = self.log.verdicts.get(key, [])[: -1 if task in judged else None]
            decision = decide(cause, earlier, self.profile.attempts)
            submission = self.log.latest[key][0]
            if task not in judged:
                counted = cause.rule.counted
                self.log.judge(
                    Verdict(stage.id, task, submission.name, cause.kind, cause.text, counted, time.time(), cause.node)
                )
            if not decision.retry:
                log = f"; log: {cause.log}" if cause.log else ""
                reason = f"{stage.id} {task}: {decision.why}{log}"
                self.stop(reason, stage=stage.id, task=task, kind=cause.kind, log=cause.log)
                return False
            self._say(f"{stage.id} {task}: {decision.why}; submitting it again")
            again.setdefault((submission.halvings + decision.halve, self._avoided(key)), []).append(task)
        # Those that were tried before come first: they are known to be worth the wait.
        for (halvings, avoid), tasks in again.items():
            self._submit(stage, tasks, halvings=halvings, exclude=avoid)
        self._submit(stage, fresh, exclude=self._avoided())
        return True

    def _verdicts_on_latest(self, stage: Stage, task: str) -> list[Verdict]:
        found = self.log.verdicts.get((stage.id, task), [])
        name = self.log.latest[stage.id, task][0].name
        return found if found and found[-1].submission == name else []

    def _avoided(self, key: TaskKey | None = None) -> tuple[str, ...]:
        return tuple(nodes_to_avoid(self.log.verdicts, key)) if self.cluster.avoid_failed_nodes else ()

    # --- sbatch --------------------------------------------------------------
    def _submit(
        self,
        stage: Stage,
        tasks: Sequence[str],
        *,
        after: Sequence[str] = (),
        halvings: int = 0,
        exclude: Sequence[str] = (),
    ) -> list[str]:
        """Submit tasks of a stage in windows; returns the jobs' ids."""
        ids: list[str] = []
        if not tasks or self._limit is not None:
            return ids
        for window in stage_windows(stage, tasks, self.profile, self._array_limit()):
            behind = [] if window.behind is None else [ids[window.behind]]
            left, size = window.elements, len(window.elements)
            while left and size:
                part = replace(window, elements=left[:size])
                try:
                    ids.append(self._send_tasks(stage, part, [*after, *behind], halvings, exclude))
                except SubmitLimitError as error:
                    if self.cluster.chain != "gated":
                        raise
                    self._limit, size = error, size // 2  # whatever fits
                    continue
                left = left[size:]
                size = min(size, len(left))
            if self._limit is not None:
                break
        return ids

    def _send_tasks(
        self, stage: Stage, window: Window, after: Sequence[str], halvings: int, exclude: Sequence[str]
    ) -> str:
        element = window.elements[0] if len(window.elements) == 1 else None
        root, minutes = str(self.run.root.resolve()), self.cluster.resources(stage.kind).minutes

        def make(name: str, exclude: Sequence[str]) -> tuple[dict[str, Any], ClusterTask]:
            values = parameters(
                self.profile, stage.kind, name=name, after=after, exclude=exclude, at_once=window.at_once
            )
            seconds = values["signal_delay_s"]
            return values, ClusterTask(
                root, stage.id, name, self.plan.identity, minutes, seconds, halvings, self.work
            )

        sent = self._send(stage, element, make, window.elements, after, exclude, halvings)
        self._queued += [(sent, index) for index in range(len(window.elements))]
        return sent.job or ""

    def _submit_gate(self, stage: Stage, after: Sequence[str], begin: float | None = None) -> None:
        """Submit a gate behind jobs, or the watch, which begins at its time."""
        gate = self.gate(self.watch if begin is None else min(2 * begin, LONGEST_WATCH_SECONDS))

        def make(name: str, exclude: Sequence[str]) -> tuple[dict[str, Any], Callable[[Element], None]]:
            return gate_parameters(
                self.profile, self.run, stage, name=name, after=after, exclude=exclude, begin=begin
            ), gate

        self._send(stage, None, make, (), after, self._avoided())

    def _send(
        self,
        stage: Stage,
        element: Element | None,
        make: Callable[[str, Sequence[str]], tuple[dict[str, Any], Callable[[Element], None]]],
        elements: Sequence[Element],
        after: Sequence[str],
        exclude: Sequence[str],
        halvings: int = 0,
    ) -> Submission:
        """Submit a job, off as many of the nodes to be avoided as leave it any."""
        name = job_name(self.tag, stage.id, element, self.log.sequence + 1, gate=not elements)
        values, function = make(name, exclude)
        self.log.intend(name, stage.id, elements, after=after, halvings=halvings)
        try:
            self.log.confirm(name, self._sbatch(stage, values, function, elements, after))
        except SlurmError as error:
            if not isinstance(error, ControllerAbsentError):  # which may have heard
                self.log.refuse(name, str(error))
            if not exclude or not isinstance(error, NoNodeError):
                raise
            return self._send(stage, element, make, elements, after, exclude[:-1], halvings)
        self.submitted.append(self.log.submissions[name])
        return self.submitted[-1]

    def _sbatch(
        self,
        stage: Stage,
        values: dict[str, Any],
        function: Callable[[Element], None],
        elements: Sequence[Element],
        after: Sequence[str],
    ) -> str:
        executor = ChainExecutor(self.run.jobs(stage, values["job_name"]).resolve(), self.cluster)
        executor.update_parameters(**values)
        try:
            return executor.submit_elements(function, elements or [()], self.patience)
        except DependencyError:
            # Slurm has forgotten a job that this one was to wait for: it ended
            # long ago, or was lost in a crash. There is nothing to wait for.
            known = {job.id for job in self._queue()}
            executor.parameters.pop("dependency", None)
            if left := [id for id in after if id in known]:
                executor.update_parameters(dependency=dependency(left))
            return executor.submit_elements(function, elements or [()], self.patience)

    # --- gates ---------------------------------------------------------------
    def _set_gates(self, snapshot: Snapshot) -> None:
        """See that every stage under way has a gate behind all of its jobs, and the run its watch.

        A job may be over before this looks; a gate behind it then starts at
        once, and nothing is forgotten.
        """
        for stage in snapshot.unfinished():
            while jobs := self._jobs(snapshot, stage):
                if any(jobs.issubset(gate.after) for gate in snapshot.gates):
                    break
                try:
                    self._submit_gate(stage, sorted(jobs, key=int))
                    break
                except SubmitLimitError as error:
                    self._limit = error
                    if not self._make_room(snapshot):
                        raise
        watched = any(not gate.after for gate in snapshot.gates)
        if not watched and self._limit is None and (snapshot.in_flight or self._queued):
            try:
                self._submit_gate(snapshot.unfinished()[0], (), begin=self.watch)
            except SubmitLimitError:
                pass  # a luxury

    def _jobs(self, snapshot: Snapshot, stage: Stage) -> set[str]:
        jobs = {job.id for (id, _), job in snapshot.in_flight.items() if id == stage.id}
        return jobs | {sent.job for sent, _ in self._queued if sent.stage == stage.id and sent.job}

    def _make_room(self, snapshot: Snapshot) -> bool:
        """Take back the watch, else the last task that was queued here, so that a gate has a place; False for none."""
        seconds = self.cluster.command_seconds
        watches = [gate for gate in snapshot.gates if not gate.after]
        if watches:
            cancel([gate.job or "" for gate in watches], seconds=seconds, pending_only=True)
            snapshot.gates = [gate for gate in snapshot.gates if gate.after]
            return True
        if len(self._queued) + len(snapshot.in_flight) < 2 or not self._queued:
            return False
        sent, index = self._queued.pop()
        cancel([f"{sent.job}_{index}" if len(sent.elements) > 1 else sent.job or ""], seconds=seconds)
        self.log.refuse(sent.name, "taken back, to make room for a gate", index)
        return True

    def _queue(self) -> list[Job]:
        jobs: Any = patiently(lambda: queue(seconds=self.cluster.command_seconds), patience=self.patience)
        return jobs

    def _array_limit(self) -> int:
        if self._max_array_size is None:
            known: Any = patiently(lambda: configuration(seconds=self.cluster.command_seconds), patience=self.patience)
            self._max_array_size = array_limit(known) or DEFAULT_MAX_ARRAY_SIZE
        return self._max_array_size

    def _say(self, line: str) -> None:
        self.said.append(line)
        print(line, flush=True)
