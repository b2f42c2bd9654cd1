"""What submitting a plan would send to Slurm, without sending it.

A scheduler that records: every job that it is given is done at once. Two things are known to Slurm and the first
submission alone, and have stand-ins here: a job's id (``JOB_0003`` for the job whose name ends in ``.0003``) and the
digits that keep the names of two runs apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpcmaf.config.profile import Profile
from hpcmaf.errors import SlurmError
from hpcmaf.launch.advance import advance
from hpcmaf.launch.slurm.commands import Job
from hpcmaf.launch.slurm.scheduler import Slurm
from hpcmaf.launch.slurm.script import DEFAULT_MAX_ARRAY_SIZE, batch_script, check_path, dependency, run_tag
from hpcmaf.launch.slurm.snapshot import Snapshot
from hpcmaf.launch.slurm.submissions import Submission, Submissions
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage

# In the place of what the first submission draws.
UNKNOWN_TAG = "xxxxxxxx"


def preview(run: RunDir, plan: Plan, profile: Profile) -> Recording:
    """Lay out what ``hpcmaf submit`` would send; neither writes nor submits.

    Raises
    ------
    ConfigError
        Slurm cannot be told of the run directory's path.
    """
    check_path(run.root)
    recording = Recording(run, plan, profile, 0.0)
    while recording.states().unfinished():
        advance(recording, profile.attempts)
    return recording


class Recording(Slurm):
    """Keeps what it would send, and writes nothing; of Slurm it asks its largest array, where there is one to ask.

    All that is left of the run is ``submitted``: jobs still queued are not left out, as Slurm is not asked for them.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._parameters: dict[str, dict[str, Any]] = {}
        self.log.reset(list(self.log.latest))
        self._done = self.run.done_tasks(self.plan)
        if UNKNOWN_TAG in self.log.nonce:
            self.tag = f"{run_tag(self.run.root, '').rpartition('-')[0]}-{UNKNOWN_TAG}"

    def script(self, job: Submission) -> str:
        """The batch script of a job, as sbatch would get it."""
        folder = self.run.jobs(self.plan.stage(job.stage), job.name).resolve()
        return batch_script(folder, self.cluster.python, self._parameters[job.name], len(job.elements))

    def gpu_hours(self, stage: Stage) -> float:
        """Most GPU-hours that what is left of a stage can take, by its time limit, when no job is repeated."""
        wanted = self.cluster.resources(stage.spec.resources)
        jobs = sum(len(job.elements) for job in self.submitted if job.stage == stage.id)
        return jobs * wanted.nodes * wanted.gpus * wanted.minutes / 60

    def states(self) -> Snapshot:
        """What was done before, and whatever was submitted since."""
        gates = [sent for sent in self.submitted if sent.gate]
        for stage, task in self._seen.in_flight:
            self._done[stage].add(task)
        self._seen = Snapshot(self.plan, self._done, gates=gates)
        return self._seen

    def stopped(self) -> bool:
        """Whatever stopped the run, submitting again goes on with it."""
        return False

    def array_limit(self) -> int:
        """Slurm's, or its default where nobody is there to ask."""
        try:
            return super().array_limit()
        except SlurmError:
            self._max_array_size = DEFAULT_MAX_ARRAY_SIZE
            return DEFAULT_MAX_ARRAY_SIZE

    def _open_log(self) -> Submissions:
        log = Submissions(self.run.submissions, dry=True)
        log.nonce = log.nonce or UNKNOWN_TAG
        return log

    def _sbatch(self, stage: Stage, values: dict[str, Any], elements: int, after: Sequence[str]) -> str:
        name = values["job_name"]
        self._parameters[name] = values | ({"dependency": dependency([f"JOB_{id}" for id in after])} if after else {})
        return name.rpartition(".")[2]

    def _queue(self) -> list[Job]:
        return []
