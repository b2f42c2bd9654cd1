"""What submitting a plan would send to Slurm, without sending it.

A scheduler that records: every job that it is given is done at once. Two
things are known to Slurm and the first submission alone, and have stand-ins
here: a job's id (``JOB_0003`` for the job whose name ends in ``.0003``) and
the digits that keep the names of two runs apart.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpcmaf.config.profile import Profile
from hpcmaf.errors import SlurmError
from hpcmaf.launch.advance import advance
from hpcmaf.launch.slurm.commands import Job, configuration
from hpcmaf.launch.slurm.scheduler import Slurm, Work
from hpcmaf.launch.slurm.script import (
    DEFAULT_MAX_ARRAY_SIZE,
    ChainExecutor,
    array_limit,
    check_path,
    dependency,
    run_tag,
    watch_seconds,
)
from hpcmaf.launch.slurm.snapshot import Snapshot
from hpcmaf.launch.slurm.submissions import Element, Submissions
from hpcmaf.launch.slurm.windows import gpu_hours
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
    after: tuple[str, ...]
    folder: Path
    values: dict[str, Any]

    @property
    def id(self) -> str:
        """Stand-in for the id that Slurm will give."""
        return f"JOB_{self.name.rpartition('.')[2]}"

    @property
    def at_once(self) -> int | None:
        """Most of its elements that run together."""
        return self.values.get("array_parallelism")

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
        return [job for job in self.jobs if job.stage == stage_id and (job.kind == "gate") is gates]

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
    limited = profile.model_copy(update={"slurm": profile.cluster.model_copy(update={"max_array_size": limit})})
    recording = Recording(run, plan, limited, lambda watch: lambda element: None, 0.0, watch_seconds(profile))
    submitted = bool(recording.log.submissions)
    recording.log.reset(list(recording.log.latest))
    states = recording.states()
    missing = {stage.id: tuple(states.missing(stage)) for stage in plan.stages}
    while recording.states().unfinished():
        advance(recording, profile.attempts)
    return Preview(run, plan, profile, limit, source, missing, tuple(recording.jobs), submitted)


class Recording(Slurm):
    """Keeps what it would send, and neither asks nor writes anything."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.jobs: list[PlannedJob] = []
        self._done = self.run.done_tasks(self.plan)
        if UNKNOWN_TAG in self.log.nonce:
            self.tag = f"{run_tag(self.run.root, '').rpartition('-')[0]}-{UNKNOWN_TAG}"

    def states(self) -> Snapshot:
        """What was done before, and whatever was submitted since."""
        gates = [sent for sent in self.submitted if sent.gate]
        for sent, index in self._queued:
            self._done[sent.stage].update(sent.elements[index])
        self._queued.clear()
        self._seen = Snapshot(self.plan, self._done, gates=gates)
        return self._seen

    def stopped(self) -> bool:
        """Whatever stopped the run, submitting again goes on with it."""
        return False

    def _open_log(self) -> Submissions:
        log = Submissions(self.run.submissions, dry=True)
        log.nonce = log.nonce or UNKNOWN_TAG
        return log

    def _sbatch(
        self, stage: Stage, values: dict[str, Any], work: Work, elements: Sequence[Element], after: Sequence[str]
    ) -> str:
        name, ids = values["job_name"], tuple(f"JOB_{id}" for id in after)
        if ids:
            values["dependency"] = dependency(ids)
        kind, folder = stage.kind if elements else "gate", self.run.jobs(stage, name).resolve()
        self.jobs.append(PlannedJob(stage.id, kind, name, tuple(elements), ids, folder, values))
        return name.rpartition(".")[2]

    def _queue(self) -> list[Job]:
        return []


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
