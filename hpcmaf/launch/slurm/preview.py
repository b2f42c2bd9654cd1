"""What submitting a plan would send to Slurm, without sending it.

Names, dependencies and batch scripts come out of the functions that submit
uses. Two things are known to Slurm and the first submission alone, and have
stand-ins here: a job's id (``JOB_0003`` for the job whose name ends in
``.0003``) and the digits that keep the names of two runs apart.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hpcmaf.errors import SlurmError
from hpcmaf.launch.slurm.commands import configuration
from hpcmaf.launch.slurm.executor import ChainExecutor
from hpcmaf.launch.slurm.requests import (
    DEFAULT_MAX_ARRAY_SIZE,
    Element,
    array_limit,
    check_path,
    gpu_hours,
    job_name,
    parameters,
    run_tag,
    stage_windows,
)
from hpcmaf.launch.slurm.submissions import Submissions
from hpcmaf.plan import Plan, Stage
from hpcmaf.profile import Profile
from hpcmaf.rundir import RunDir

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
    log = Submissions(run.submissions)
    done = run.done_tasks(plan)
    missing = {stage.id: tuple(task for task in stage.tasks if task not in done[stage.id]) for stage in plan.stages}
    writer = _Writer(run, profile, limit, _tag(run, log), log.sequence)
    if profile.cluster.chain == "gated":
        jobs = writer.gated(plan, missing)
    else:
        jobs = writer.presubmitted(plan, missing)
    return Preview(run, plan, profile, limit, source, missing, tuple(jobs), bool(log.submissions))


@dataclass
class _Writer:
    """Makes jobs in the order in which they are numbered."""

    run: RunDir
    profile: Profile
    limit: int
    tag: str
    sequence: int

    def gated(self, plan: Plan, missing: dict[str, tuple[str, ...]]) -> list[PlannedJob]:
        """A gate behind each stage submits the next; nothing else waits for anything."""
        jobs = []
        for stage in plan.stages:
            own = self.stage(stage, missing[stage.id], ())
            jobs += [*own, self.gate(stage, own)] if own else []
        return jobs

    def presubmitted(self, plan: Plan, missing: dict[str, tuple[str, ...]]) -> list[PlannedJob]:
        """Every stage waits for those it reads, and one gate for them all."""
        waiting: dict[str, list[PlannedJob]] = {}
        for stage in plan.stages:
            after = [job.id for needed in stage.after for job in waiting[needed]]
            waiting[stage.id] = self.stage(stage, missing[stage.id], after)
        jobs = [job for own in waiting.values() for job in own]
        ends = [job for stage in plan.stages if stage.kind == "score" for job in waiting[stage.id]]
        return [*jobs, self.gate(plan.stages[-1], ends)] if ends else jobs

    def stage(self, stage: Stage, tasks: Sequence[str], after: Sequence[str]) -> list[PlannedJob]:
        """A stage's arrays, or its single jobs."""
        jobs: list[PlannedJob] = []
        for window in stage_windows(stage, tasks, self.profile, self.limit) if tasks else ():
            behind = [] if window.behind is None else [jobs[window.behind].id]
            element = window.elements[0] if len(window.elements) == 1 else None
            name = job_name(self.tag, stage.id, element, self._next())
            jobs.append(self._job(stage, stage.kind, name, window.elements, window.at_once, [*after, *behind]))
        return jobs

    def gate(self, stage: Stage, jobs: Sequence[PlannedJob]) -> PlannedJob:
        """The gate behind these jobs."""
        name = job_name(self.tag, stage.id, None, self._next(), gate=True)
        return self._job(stage, "gate", name, (), None, [job.id for job in jobs])

    def _job(
        self,
        stage: Stage,
        kind: str,
        name: str,
        elements: tuple[Element, ...],
        at_once: int | None,
        after: Sequence[str],
    ) -> PlannedJob:
        values = parameters(self.profile, kind, name=name, after=after, at_once=at_once)
        folder = self.run.jobs(stage, name).resolve()
        return PlannedJob(stage.id, kind, name, elements, at_once, tuple(after), folder, values)

    def _next(self) -> int:
        self.sequence += 1
        return self.sequence


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
