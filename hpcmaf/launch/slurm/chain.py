"""The chain of jobs that carries a run through its stages.

``advance`` looks at the run, submits whatever is ready and not queued yet,
and sets a gate behind it: a small job that starts once those have ended, and
advances again. It keeps nothing in memory, may be called by anybody at any
time, and twice is as good as once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hpcmaf.launch.slurm.causes import decide
from hpcmaf.launch.slurm.commands import (
    DependencyError,
    Job,
    cancel,
    configuration,
    patiently,
    queue,
    release,
)
from hpcmaf.launch.slurm.executor import ChainExecutor
from hpcmaf.launch.slurm.gate import Gate
from hpcmaf.launch.slurm.losses import find_causes
from hpcmaf.launch.slurm.requests import (
    DEFAULT_MAX_ARRAY_SIZE,
    Element,
    array_limit,
    dependency,
    job_name,
    parameters,
    run_tag,
    stage_windows,
)
from hpcmaf.launch.slurm.snapshot import Snapshot
from hpcmaf.launch.slurm.stopped import write_stop
from hpcmaf.launch.slurm.submissions import Submission, Submissions, Verdict
from hpcmaf.launch.slurm.task import ClusterTask, Work
from hpcmaf.plan import Plan, Stage
from hpcmaf.profile import Profile
from hpcmaf.rundir import RunDir
from hpcmaf.stages.entry import run_task


@dataclass
class Chain:
    """Moves one run on; whoever uses it holds the run (``RunDir.drive``).

    Parameters
    ----------
    patience
        Seconds to wait for a controller that does not answer.
    own_job
        Slurm id of the gate that this runs in, if it does.
    work
        What the jobs run for each task.
    """

    run: RunDir
    plan: Plan
    profile: Profile
    patience: float = 60.0
    own_job: str = ""
    work: Work = run_task
    said: list[str] = field(default_factory=list)
    submitted: list[Submission] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cluster = self.profile.cluster
        self.log = Submissions(self.run.submissions)
        self.log.start()
        self.tag = run_tag(self.run.root, self.log.nonce)
        self._max_array_size = self.cluster.max_array_size

    # --- what others call ----------------------------------------------------
    def advance(self) -> Snapshot:
        """Submit what is ready; in a gated chain, with gates behind it.

        Raises
        ------
        SlurmError
            Slurm refused a request, or was silent for longer than ``patience``.
        """
        snapshot = self.look()
        if self.run.stopped.exists():
            return snapshot
        for stage in snapshot.ready():
            if not self._submit_missing(snapshot, stage):
                return snapshot
        self._set_gates(snapshot)
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
        if snapshot.held:
            self._say(f"could not be launched: {', '.join(snapshot.held)}; releasing them")
            release(snapshot.held, seconds=self.cluster.command_seconds)
        return snapshot

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
        self._submit(stage, fresh)
        again: dict[tuple[int, str], list[str]] = {}
        for task, cause in find_causes(self.run, snapshot, self.log, stage, lost, self.cluster, self._say).items():
            key, earlier = (stage.id, task), self.log.verdicts.get((stage.id, task), [])
            decision = decide(cause, earlier, self.profile.attempts)
            submission = self.log.latest[key][0]
            verdict = Verdict(stage.id, task, submission.name, cause.kind, cause.text, cause.rule.counted)
            self.log.judge(verdict)
            if not decision.retry:
                log = f"; log: {cause.log}" if cause.log else ""
                reason = f"{stage.id} {task}: {decision.why}{log}"
                self.stop(reason, stage=stage.id, task=task, kind=cause.kind, log=cause.log)
                return False
            self._say(f"{stage.id} {task}: {decision.why}; submitting it again")
            again.setdefault((submission.halvings + decision.halve, decision.avoid), []).append(task)
        for (halvings, avoid), tasks in again.items():
            nodes = [avoid] if avoid else []
            self._submit(stage, tasks, halvings=halvings, exclude=nodes)
        return True

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
        if not tasks:
            return ids
        wanted = self.cluster.resources(stage.kind)
        for window in stage_windows(stage, tasks, self.profile, self._array_limit()):
            behind = [] if window.behind is None else [ids[window.behind]]
            element = window.elements[0] if len(window.elements) == 1 else None
            name = job_name(self.tag, stage.id, element, self.log.sequence + 1)
            values = parameters(
                self.profile,
                stage.kind,
                name=name,
                after=[*after, *behind],
                exclude=exclude if self.cluster.avoid_failed_nodes else (),
                at_once=window.at_once,
            )
            function = ClusterTask(
                str(self.run.root.resolve()),
                stage.id,
                name,
                self.plan.identity,
                wanted.minutes,
                values["signal_delay_s"],
                halvings,
                self.work,
            )
            ids.append(self._send(stage, name, values, function, window.elements, [*after, *behind], halvings))
        return ids

    def _submit_gate(self, stage: Stage, after: Sequence[str]) -> None:
        name = job_name(self.tag, stage.id, None, self.log.sequence + 1, gate=True)
        values = parameters(self.profile, "gate", name=name, after=after)
        gate = Gate(str(self.run.root.resolve()), self.work)
        self._send(stage, name, values, gate, (), after, 0)

    def _send(
        self,
        stage: Stage,
        name: str,
        values: dict[str, Any],
        function: Any,
        elements: Sequence[Element],
        after: Sequence[str],
        halvings: int,
    ) -> str:
        executor = ChainExecutor(self.run.jobs(stage, name).resolve(), self.cluster)
        executor.update_parameters(**values)
        self.log.intend(name, stage.id, elements, after=after, halvings=halvings)
        try:
            job = executor.submit_elements(function, elements or [()], self.patience)
        except DependencyError:
            # Slurm has forgotten a job that this one was to wait for: it ended
            # long ago, or was lost in a crash. There is nothing to wait for.
            known = {job.id for job in self._queue()}
            left = [id for id in after if id in known]
            executor.parameters.pop("dependency", None)
            if left:
                executor.update_parameters(dependency=dependency(left))
            job = executor.submit_elements(function, elements or [()], self.patience)
        self.log.confirm(name, job)
        self.submitted.append(self.log.submissions[name])
        return job

    def _set_gates(self, snapshot: Snapshot) -> None:
        """See that every stage under way has a gate behind all of its jobs.

        A job may be over before this looks; a gate behind it then starts at
        once, and nothing is forgotten.
        """
        for stage in snapshot.unfinished():
            jobs = {job.id for (id, _), job in snapshot.in_flight.items() if id == stage.id}
            jobs |= {sent.job for sent in self.submitted if sent.stage == stage.id and not sent.gate and sent.job}
            if jobs and not any(jobs.issubset(gate.after) for gate in snapshot.gates):
                self._submit_gate(stage, sorted(jobs, key=int))

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
