"""What submitting a plan would send to Slurm, without sending it.

Names, dependencies and batch scripts come out of the functions that submit
uses. Two things are known to Slurm and the first submission alone, and have
stand-ins here: a job's id (``JOB_0003`` for the job whose name ends in
``.0003``) and the digits that keep the names of two runs apart.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hpcmaf.config.profile import Profile
from hpcmaf.errors import SlurmError
from hpcmaf.launch.slurm.chain import Chain
from hpcmaf.launch.slurm.commands import Job, configuration
from hpcmaf.launch.slurm.executor import ChainExecutor
from hpcmaf.launch.slurm.requests import (
    DEFAULT_MAX_ARRAY_SIZE,
    Element,
    array_limit,
    check_path,
    dependency,
    gpu_hours,
    run_tag,
    watch_seconds,
)
from hpcmaf.launch.slurm.snapshot import Snapshot
from hpcmaf.launch.slurm.submissions import Submissions
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage

# In the place of what the first submission draws.
UNKNOWN_TAG = "xxxxxxxx"

# Somebody is waiting at the prompt, and there is a default.
_ASK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One call of sbatch.

    Attributes
    ----------
    kind
        Of its stage, or ``gate``.
    elements
        What each job of the array does; empty for a gate.
    after
        Stand-ins of the jobs it waits for.
    """

    stage: str
    kind: str
    name: str
    elements: tuple[Element, ...]
    at_once: int | None
    after: tuple[str, ...]
    folder: Path
    values: dict[str, Any]

    @property
    def id(self) -> str:
        """Stand-in for the id that Slurm will give."""
        return f"JOB_{self.name.rpartition('.')[2]}"

    @property
    def array(self) -> bool:
        """Whether it is a job array."""
        return len(self.elements) > 1

    def script(self, profile: Profile) -> str:
        """The batch script, as sbatch would get it."""
        executor = ChainExecutor(self.folder, profile.cluster, check=False)
        executor.update_parameters(**self.values)
        return executor.script(len(self.elements) or 1)


@dataclass(frozen=True)
class Preview:
    """All that is left of a run, as jobs.

    Attributes
    ----------
    limit, limit_source
        MaxArraySize, and who says so.
    missing
        Tasks not done yet, by stage id.
    submitted
        Whether jobs were submitted for this run before; those still queued
        are not left out here, as Slurm is not asked for them.
    """

    run: RunDir
    plan: Plan
    profile: Profile
    limit: int
    limit_source: str
    missing: dict[str, tuple[str, ...]]
    jobs: tuple[PlannedJob, ...]
    submitted: bool

    def of(self, stage_id: str, *, gates: bool = False) -> list[PlannedJob]:
        """A stage's jobs, or the gates behind it."""
        return self._by_stage.get((stage_id, gates), [])

    @cached_property
    def _by_stage(self) -> dict[tuple[str, bool], list[PlannedJob]]:
        found: dict[tuple[str, bool], list[PlannedJob]] = {}
        for job in self.jobs:
            found.setdefault((job.stage, job.kind == "gate"), []).append(job)
        return found

    def gpu_hours(self) -> dict[str, float]:
        """Ceiling by stage, for what is left and each task tried once."""
        left = [replace(stage, tasks=self.missing[stage.id]) for stage in self.plan.stages]
        return dict(gpu_hours(left, self.profile))


def preview(run: RunDir, plan: Plan, profile: Profile) -> Preview:
    """Lay out what ``hpcmaf submit`` would send; neither writes nor submits.

    Raises
    ------
    ConfigError
        Slurm cannot be told of the run directory's path.
    """
    check_path(run.root)
    limit, source = _array_limit(profile)
    recorder = _Recorder(run, plan, profile, limit)
    submitted = bool(recorder.log.submissions)
    snapshot = recorder.look()
    missing = {stage.id: tuple(snapshot.missing(stage)) for stage in plan.stages}
    if profile.cluster.chain == "gated":
        recorder.every_stage(snapshot)
    else:
        recorder.queue_all()
    return Preview(run, plan, profile, limit, source, missing, tuple(recorder.jobs), submitted)


class _Recorder(Chain):
    """A chain that keeps what it would send, and neither asks nor writes anything."""

    def __init__(self, run: RunDir, plan: Plan, profile: Profile, limit: int) -> None:
        self.jobs: list[PlannedJob] = []
        self.log = Submissions(run.submissions, dry=True)
        tag = _tag(run, self.log)
        super().__init__(run, plan, profile, lambda watch: lambda element: None, 0.0, watch_seconds(profile))
        self.tag = tag
        self._max_array_size = limit

    def every_stage(self, snapshot: Snapshot) -> None:
        """What gates submit one after another, and the watch over it all."""
        for stage in snapshot.unfinished():
            self._submit_gate(stage, self._submit(stage, snapshot.missing(stage)))
        if left := snapshot.unfinished():
            self._submit_gate(left[0], (), begin=self.watch)

    def _queue(self) -> list[Job]:
        return []

    def _sbatch(
        self,
        stage: Stage,
        values: dict[str, Any],
        function: Callable[[Element], None],
        elements: Sequence[Element],
        after: Sequence[str],
    ) -> str:
        name, ids = values["job_name"], tuple(f"JOB_{id}" for id in after)
        if ids:
            values["dependency"] = dependency(ids)
        kind, at_once = stage.kind if elements else "gate", values.get("array_parallelism")
        folder = self.run.jobs(stage, name).resolve()
        self.jobs.append(PlannedJob(stage.id, kind, name, tuple(elements), at_once, ids, folder, values))
        return name.rpartition(".")[2]


def _tag(run: RunDir, log: Submissions) -> str:
    if log.nonce:
        return run_tag(run.root, log.nonce)
    return f"{run_tag(run.root, '').rpartition('-')[0]}-{UNKNOWN_TAG}"


def _array_limit(profile: Profile) -> tuple[int, str]:
    """MaxArraySize, and who says so."""
    if profile.cluster.max_array_size is not None:
        return profile.cluster.max_array_size, "the profile's"
    if shutil.which("scontrol") is None:
        return DEFAULT_MAX_ARRAY_SIZE, "Slurm's default; there is no scontrol here to ask"
    try:
        limit = array_limit(configuration(seconds=min(_ASK_SECONDS, profile.cluster.command_seconds)))
    except SlurmError:
        return DEFAULT_MAX_ARRAY_SIZE, "Slurm's default; this machine's Slurm does not answer"
    if limit is not None:
        return limit, "this machine's Slurm's"
    return DEFAULT_MAX_ARRAY_SIZE, "Slurm's default; this machine's Slurm does not say"
