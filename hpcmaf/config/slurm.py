"""The ``slurm:`` section of a profile: what jobs request of one cluster, and how.

All of it ends up in batch scripts, so no value may smuggle in a line of shell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from hpcmaf.files.yaml import Strict, validate

# Accounts, partitions, constraints, node lists, types: [h100*2|a100]&ib, node[1-4,7]. No quote, no blank, no $ or ;
_WORD = re.compile(r"[A-Za-z0-9_.,:=+*&|()\[\]@/%-]+")
_OPTION = re.compile(r"[a-z][a-z0-9-]*")

# Options that have keys of their own, or with which hpcmaf could no longer start or follow its jobs.
_NEVER = set(
    "account array chdir cluster-constraint clusters constraint cpus-per-task dependency error exclude export gid help "
    "hold job-name mem no-requeue nodes ntasks ntasks-per-node open-mode output parsable partition qos quiet requeue "
    "signal test-only time uid usage version wait wrap".split()
)


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
        if name in _NEVER:
            raise ValueError(f"--{name} is not for options; leave it out, or say it with a key of the profile's own")
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
    memory_gb: float | None = Field(None, ge=0, description="memory per node; 0: all; left out: the site's default")
    minutes: int = Field(60, ge=1, description="time limit")
    at_once: int | None = Field(None, ge=1, description="most of a stage's tasks running at once")
    account: Word | None = None
    partition: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    options: Options = {}


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
    """One cluster; ``slurm/README.md`` says more of every key."""

    account: Word | None = None
    partition: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    exclude: list[Word] = Field([], description="nodes no job shall run on")
    gpu_type: Word | None = None
    gpu_option: Literal["gpus-per-node", "gres"] = Field(
        "gpus-per-node", description="how GPUs are requested: --gpus-per-node=h100:8 or --gres=gpu:h100:8"
    )
    options: Options = {}
    setup: list[Line] = Field([], description="lines of shell at the start of every job, such as module load cuda")
    python: Line | None = Field(None, description="starts Python in a job; left out, the interpreter that submits")
    max_array_size: int | None = Field(None, ge=1, description="most tasks of one job array; left out, Slurm's own")
    signal_seconds: int = Field(120, ge=5, description="seconds before the time limit, to save and requeue")
    command_seconds: float = Field(60.0, gt=0, le=1e6, description="how long one call of sbatch, squeue, ... may take")
    patience_minutes: float = Field(30.0, ge=0, le=1e6, description="how long a gate waits for an absent controller")
    settle_seconds: float = Field(15.0, ge=0, le=1e6, description="how long a gate watches its new jobs")
    agents_per_job: int = Field(1, ge=1, description="agents that one finetuning job trains, one after another")
    generation: GpuJob = GpuJob()
    finetuning: GpuJob = GpuJob()
    merge: MergeJob = MergeJob()
    gate: GateJob = GateJob()

    @model_validator(mode="after")
    def _check_signal(self) -> Slurm:
        for name in ("generation", "finetuning"):
            minutes = getattr(self, name).minutes
            if self.signal_seconds >= 60 * minutes:
                raise ValueError(f"signal_seconds: no less than the {minutes} minutes of {name}; lower it")
        for name in ("generation", "merge", "gate"):
            if getattr(self, name).nodes != 1:
                raise ValueError(f"{name}.nodes: only finetuning runs on several nodes")
        return self

    def resources(self, section: str) -> Resources:
        """What a job of a section (``generation``, ``finetuning``, ``merge``, ``gate``) asks for."""
        return getattr(self, section)


# What sbatch takes from the environment, and the keys that say the same.
_DEFAULTS = {f"SBATCH_{key.upper()}": key for key in ("account", "partition", "qos", "reservation")}


def with_defaults(cluster: Slurm, environment: Mapping[str, str]) -> Slurm:
    """Fill in what a site's users say in the environment of their shells, where a profile names nothing.

    Raises
    ------
    ConfigError
        A variable holds what no such name has.
    """
    own = cluster.model_dump() | {"reservation": cluster.options.get("reservation")}
    named = {key: environment.get(name) for name, key in _DEFAULTS.items() if own[key] is None}
    found: dict[str, Any] = {key: value for key, value in named.items() if value}
    if "reservation" in found:
        found["options"] = {**cluster.options, "reservation": found.pop("reservation")}
    return validate(Slurm, cluster.model_dump() | found, "SBATCH_* in the environment") if found else cluster
