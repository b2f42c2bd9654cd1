"""The ``slurm:`` section of a profile: what jobs request of one cluster, and how.

Everything here ends up in a batch script, so values are limited to what such a
value can be: a profile from another person must not be able to smuggle in a
line of shell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from hpcmaf.files.yaml import Strict, validate

# What accounts, partitions, constraints, node lists and types are written
# with: [h100*2|a100]&ib, node[1-4,7], gpu:h100. No quote, no blank, no $ or ;
_WORD = re.compile(r"[A-Za-z0-9_.,:=+*&|()\[\]@/%-]+")
_OPTION = re.compile(r"[a-z][a-z0-9-]*")

# Options that hpcmaf sets itself, and what to set instead.
_OWN_OPTIONS = {
    "array": "generation.problems_per_shard and at_once",
    "chdir": "the folder you submit from",
    "constraint": "constraint",
    "cpus-per-task": "cpus",
    "dependency": "chain",
    "error": "nothing: logs lie in the run directory",
    "exclude": "exclude",
    "export": "setup lines",
    "job-name": "--run",
    "mem": "memory_gb",
    "nodes": "nodes",
    "ntasks": "nodes",
    "ntasks-per-node": "nodes",
    "open-mode": "nothing: logs are appended to",
    "output": "nothing: logs lie in the run directory",
    "partition": "partition",
    "qos": "qos",
    "account": "account",
    "requeue": "nothing: every job may be requeued",
    "no-requeue": "nothing: every job may be requeued",
    "signal": "signal_seconds",
    "time": "minutes",
    "wait": "hpcmaf status --watch",
    "clusters": "nothing: a run's jobs are looked for on this machine's own cluster",
    "cluster-constraint": "nothing: a run's jobs are looked for on this machine's own cluster",
    "hold": "nothing: held jobs would never start",
    "test-only": "hpcmaf doctor",
    "parsable": "nothing: hpcmaf reads sbatch's answers",
    "quiet": "nothing: hpcmaf reads sbatch's answers",
    "help": "nothing: it submits no job",
    "usage": "nothing: it submits no job",
    "version": "nothing: it submits no job",
    "wrap": "setup lines",
}


def _word(value: str) -> str:
    if not _WORD.fullmatch(value):
        raise ValueError(f"{value!r} holds a character that no such name has; letters, digits and _.,:=+*&|()[]@/%- do")
    return value


def _line(value: str) -> str:
    if not value.isprintable():
        raise ValueError(f"{value!r} is not one printable line; give each line as an item of its own")
    return value


Word = Annotated[str, AfterValidator(_word)]
Line = Annotated[str, AfterValidator(_line)]


def _options(options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    for name, value in options.items():
        if not _OPTION.fullmatch(name):
            written = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
            raise ValueError(f"{name!r} is no sbatch option; write it as in --comment, without dashes: {written}")
        if name in _OWN_OPTIONS:
            raise ValueError(f"--{name} is not for options; use {_OWN_OPTIONS[name]}")
        if value is False:
            raise ValueError(f"{name}: false means nothing to sbatch; leave it out")
        if isinstance(value, str):
            _line(value)
    return options


Options = Annotated[dict[str, str | int | bool], AfterValidator(_options)]


class Resources(Strict):
    """What one job of a kind asks for; what it leaves out is the section's own."""

    nodes: int = Field(1, ge=1, description="nodes of one job")
    gpus: int = Field(0, ge=0, description="GPUs per node")
    cpus: int = Field(1, ge=1, description="CPU cores per node")
    memory_gb: float | None = Field(
        None, ge=0, description="memory per node; 0: all of it; left out: the site's default"
    )
    minutes: int = Field(60, ge=1, description="time limit")
    at_once: int | None = Field(None, ge=1, description="most of a stage's tasks running at once")
    account: Word | None = None
    partition: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    options: Options = Field(default_factory=dict)


class GpuJob(Resources):
    """Resources of jobs that generate or train."""

    gpus: int = Field(1, ge=0, description="GPUs per node")
    cpus: int = Field(8, ge=1, description="CPU cores per node")
    minutes: int = Field(240, ge=1, description="time limit")


class MergeJob(Resources):
    """Resources of jobs that merge and score."""

    cpus: int = Field(2, ge=1, description="CPU cores per node")


class GateJob(Resources):
    """Resources of gates."""

    minutes: int = Field(30, ge=1, description="time limit")


class Slurm(Strict):
    """One cluster.

    Attributes
    ----------
    chain
        ``gated``: after each stage a one-CPU job looks at the markers and
        submits what comes next. ``presubmitted``: everything is queued at
        once, for sites where jobs may not submit jobs.
    gpu_option
        How GPUs are requested: ``--gpus-per-node=h100:8`` or
        ``--gres=gpu:h100:8``.
    setup
        Lines of shell at the start of every job, such as ``module load cuda``.
    python
        Command that starts Python in a job; left out, the interpreter that
        submits.
    max_array_size
        Left out, it is Slurm's own MaxArraySize.
    signal_seconds
        How long before its time limit a job is signalled to save and requeue.
    command_seconds
        How long one call of sbatch, squeue, ... may take.
    patience_minutes
        How long a gate waits for a controller that does not answer.
    settle_seconds
        How long a gate stays to see that what it submitted is known to Slurm;
        a controller that crashes forgets the jobs of its last seconds.
    avoid_failed_nodes
        Whether a task whose node failed is kept off that node afterwards.
    agents_per_job
        Agents that one finetuning job trains, one after another.
    """

    chain: Literal["gated", "presubmitted"] = "gated"
    account: Word | None = None
    partition: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    exclude: list[Word] = Field(default_factory=list)
    gpu_type: Word | None = None
    gpu_option: Literal["gpus-per-node", "gres"] = "gpus-per-node"
    options: Options = Field(default_factory=dict)
    setup: list[Line] = Field(default_factory=list)
    python: Line | None = None
    max_array_size: int | None = Field(None, ge=1, description="most tasks of one job array")
    signal_seconds: int = Field(120, ge=5, description="seconds before the time limit")
    command_seconds: float = Field(60.0, gt=0)
    avoid_failed_nodes: bool = True
    patience_minutes: float = Field(30.0, ge=0)
    settle_seconds: float = Field(15.0, ge=0)
    agents_per_job: int = Field(1, ge=1)
    generation: GpuJob = GpuJob()
    finetuning: GpuJob = GpuJob()
    merge: MergeJob = MergeJob()
    gate: GateJob = GateJob()

    @model_validator(mode="after")
    def _check_signal(self) -> Slurm:
        for name in ("generation", "finetuning"):
            minutes = getattr(self, name).minutes
            if self.signal_seconds >= 60 * minutes:
                raise ValueError(
                    f"signal_seconds: {self.signal_seconds} is no less than the {minutes} minutes of {name}; lower it"
                )
        for name in ("generation", "merge", "gate"):
            if getattr(self, name).nodes != 1:
                raise ValueError(f"{name}.nodes: only finetuning runs on several nodes")
        return self

    def resources(self, section: str) -> Resources:
        """What a job of a section (``generation``, ``finetuning``, ``merge``, ``gate``) asks for."""
        return getattr(self, section)


# What sbatch takes from the environment, and the keys that say the same.
_DEFAULTS = {"SBATCH_ACCOUNT": "account", "SBATCH_PARTITION": "partition", "SBATCH_QOS": "qos"}
_RESERVATION = "SBATCH_RESERVATION"


def with_defaults(cluster: Slurm, environment: Mapping[str, str]) -> Slurm:
    """Fill in what a site's users say in the environment of their shells, where a profile names nothing.

    Raises
    ------
    ConfigError
        A variable holds what no such name has.
    """
    names = unnamed(cluster, environment)
    found: dict[str, object] = {_DEFAULTS[name]: environment[name] for name in names if name in _DEFAULTS}
    if _RESERVATION in names:
        found["options"] = {**cluster.options, "reservation": environment[_RESERVATION]}
    return validate(Slurm, {**cluster.model_dump(), **found}, "SBATCH_* in the environment") if found else cluster


def unnamed(cluster: Slurm, environment: Mapping[str, str]) -> list[str]:
    """Such variables for which a profile names nothing."""
    found = [name for name, key in _DEFAULTS.items() if environment.get(name) and getattr(cluster, key) is None]
    return found + [_RESERVATION] * bool(environment.get(_RESERVATION) and "reservation" not in cluster.options)
