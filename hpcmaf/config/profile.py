"""A profile: how one site runs jobs, and nothing about the science."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator

from hpcmaf.config import DEFAULT_PROFILE
from hpcmaf.config.slurm import GpuJob, Slurm, with_defaults
from hpcmaf.cores import usable_cores
from hpcmaf.engines.options import Endpoint, VllmOptions
from hpcmaf.files.yaml import Strict, apply_overrides, find_yaml, read_mapping, shipped_folder, validate

# Options that an earlier version wrote into the profiles of its runs, by section, and what happens without them.
RETIRED: dict[str, dict[str, object]] = {
    "generation": dict.fromkeys(
        ("engine_process", "fold_adapters", "lookup_tokens", "prompts_every", "record_prompts")
        + ("data_parallel", "loaded_models", "max_num_batched_tokens")
    ),
    "finetuning": {"wandb": None},
    "slurm": {"chain": "gated", "avoid_failed_nodes": True},
}


class Generation(VllmOptions):
    """One debate task, and the engine that answers it."""

    engine: Literal["transformers", "vllm", "endpoint"] = "transformers"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: int = Field(128, ge=1, description="requests generated together")
    problems_per_shard: int = Field(250, ge=1, description="problems of one debate task")
    max_shards: int = Field(1000, ge=1, description="most debate tasks of one stage")
    threads: int = Field(1, ge=1, description="CPU threads of one task")
    evaluate_with_debate: bool = Field(False, description="slurm: debates and evaluation of a society share jobs")
    endpoint: Endpoint | None = Field(None, description="endpoint: whose server answers")

    @model_validator(mode="after")
    def _check_engines(self) -> Generation:
        if self.engines > 1 and self.engine != "vllm":
            raise ValueError("engines: only engine: vllm takes more than one; more tasks do the same for others")
        if (self.engine == "endpoint") != (self.endpoint is not None):
            raise ValueError("endpoint: goes with engine: endpoint, which names url and model there")
        return self

    @property
    def gpus(self) -> int:
        """GPUs that one task uses, where there are any."""
        return 0 if self.engine == "endpoint" else super().gpus


class Finetuning(Strict):
    """One finetuning job: torchrun with DeepSpeed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: int = Field(1, ge=1, description="torchrun processes, one per GPU where there are GPUs")
    threads: int = Field(1, ge=1, description="CPU threads of one process")


class Profile(Strict):
    """One site, as written in ``slurm/profiles/<site>.yaml``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    launcher: Literal["local", "slurm"] = "local"
    jobs: int | None = Field(None, ge=1, description="tasks run at once; leave out for one per CPU core")
    agents_per_job: int | None = Field(None, ge=1, description="agents that one finetuning job trains in turn")
    attempts: int = Field(3, ge=1, description="times a task that was killed is started in all")
    generation: Generation = Generation()
    finetuning: Finetuning = Finetuning()
    slurm: Slurm | None = None

    @model_validator(mode="after")
    def _check_launcher(self) -> Profile:
        if self.launcher == "slurm" and self.slurm is None:
            raise ValueError("slurm: missing; a profile of launcher: slurm says there what to ask of the cluster")
        for section, key, device, used, job in self._gpu_use():
            if device == "cuda" and job.gpus == 0:
                raise ValueError(f"{section}.device: cuda, but slurm.{section}.gpus asks for none; use device: auto")
            # Without any GPU, auto means processes on CPUs, which may be as many as one likes.
            few = job.gpus > 0 or section == "generation"
            if device != "cpu" and few and used > max(1, job.gpus):
                text = f"{used} GPUs, but slurm.{section}.gpus asks for {job.gpus}; lower one or raise the other"
                raise ValueError(f"{section}.{key}: {text}")
        return self

    def _gpu_use(self) -> list[tuple[str, str, str, int, GpuJob]]:
        """Of each kind of job with GPUs: section, key that says how many it uses, device, how many, resources."""
        if self.launcher != "slurm":
            return []
        generation, finetuning = self.generation, self.finetuning
        key = "tensor_parallel" if generation.engines == 1 else "engines"
        return [
            ("generation", key, generation.device, generation.gpus, self.cluster.generation),
            ("finetuning", "processes", finetuning.device, finetuning.processes, self.cluster.finetuning),
        ]

    def idle_gpus(self) -> list[tuple[str, str]]:
        """GPUs that jobs ask for and do not use: what that costs, and a remedy."""
        found = []
        for section, key, device, used, job in self._gpu_use():
            if (idle := job.gpus - (0 if device == "cpu" else used)) > 0:
                hours = f"{idle * job.nodes * job.minutes / 60:,.1f} GPU-hours"
                text = f"{section}: {idle} of {job.gpus} GPUs a node are requested and idle, up to {hours} of each job"
                more = "generation.engines" if section == "generation" else f"{section}.{key}"
                found.append((text, f"lower slurm.{section}.gpus to {job.gpus - idle}, or use them: {more}"))
        return found

    @property
    def cluster(self) -> Slurm:
        """The ``slurm:`` section of a profile that has one."""
        assert self.slurm is not None, "a profile without Slurm"
        return self.slurm

    def threads(self, section: str) -> int:
        """CPU threads of one process of a job."""
        return {"generation": self.generation.threads, "finetuning": self.finetuning.threads}.get(section, 1)

    def slots(self) -> int:
        """Tasks run at once on this machine."""
        return self.jobs or usable_cores()


def load_profile(
    name: str = DEFAULT_PROFILE, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Profile:
    """Read a profile by path or shipped name.

    What it leaves out, ``SBATCH_ACCOUNT`` and such of a shell's environment fill in; of a job's nothing is taken.

    Raises
    ------
    ConfigError
        One line: file, key, fault, remedy.
    """
    path = find_yaml(name, shipped_folder("profiles", "slurm/profiles"), "profile", "--profile ")
    values = {"name": path.stem} | read_mapping(path)
    for name, retired in RETIRED.items():
        if isinstance(section := values.get(name), dict):
            if other := [key for key, value in retired.items() if key in section and section[key] != value]:
                print(f"{path}: options of an earlier version are ignored: {', '.join(other)}", file=sys.stderr)
            values[name] = {key: value for key, value in section.items() if key not in retired}
    profile = validate(Profile, apply_overrides(values, overrides), str(path))
    if profile.slurm is None or environment is None or "SLURM_JOB_ID" in environment:
        return profile
    return profile.model_copy(update={"slurm": with_defaults(profile.slurm, environment)})
