"""A profile: how one site runs jobs, and nothing about the science.

What is asked of a Slurm cluster stands in :mod:`hpcmaf.site`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from hpcmaf.configfile import Strict, apply_overrides, read_mapping, shipped_folder, validate
from hpcmaf.cores import usable_cores
from hpcmaf.errors import ConfigError
from hpcmaf.site import GpuJob, Slurm, with_defaults

if TYPE_CHECKING:
    from hpcmaf.engines.vllm_options import VllmOptions

DEFAULT_PROFILE = "local"


class Generation(Strict):
    """One debate task: an engine in a process of its own."""

    engine: Literal["transformers", "vllm"] = "transformers"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: int = Field(128, ge=1, description="requests generated together")
    loaded_models: int = Field(8, ge=1, description="fully finetuned models kept in memory at once")
    problems_per_shard: int = Field(250, ge=1, description="problems of one debate task")
    max_shards: int = Field(1000, ge=1, description="most debate tasks of one stage")
    threads: int = Field(1, ge=1, description="CPU threads of one task")
    # vLLM's own names where it has one; the rest of its arguments go under vllm_args.
    engine_process: Literal["own", "job"] = Field(
        "own", description="vllm: a process of its own, or a thread of the job"
    )
    engines: int = Field(1, ge=1, description="vllm: engines of one task, which share its requests; one per GPU")
    tensor_parallel: int = Field(1, ge=1, description="vllm: GPUs that share one model")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="vllm: share of a GPU's memory to use")
    max_num_seqs: int | None = Field(
        None, ge=1, description="vllm: requests of one step; 512, 1,024 with an fp8 cache, or 128 on a CPU"
    )
    max_num_batched_tokens: int | None = Field(None, ge=1, description="vllm: tokens of one step")
    max_model_len: int | None = Field(None, ge=1, description="vllm: context, where the model's own is too long")
    kv_cache_gb: float = Field(1.0, gt=0, description="vllm: GiB of KV cache on a CPU")
    kv_cache_dtype: str = Field("auto", description="vllm: such as fp8")
    enforce_eager: bool = Field(False, description="vllm: no CUDA graphs, no compiling")
    lookup_tokens: int = Field(0, ge=0, description="vllm: tokens guessed at a time from the text so far; 0 is none")
    prompts_every: int | None = Field(
        None, ge=1, description="vllm: steps from one that takes new prompts to the next; 8, or 1 on a CPU"
    )
    record_prompts: bool = Field(False, description="vllm: steps that read prompts as recorded graphs too")
    fold_adapters: bool = Field(False, description="vllm: add the busiest agent's adapter to the weights, in turn")
    vllm_args: dict[str, Any] = Field({}, description="vllm: further arguments of its EngineArgs")

    @model_validator(mode="after")
    def _check_engines(self) -> Generation:
        if self.engines > 1 and self.engine == "transformers":
            raise ValueError("engines: only engine: vllm takes more than one; more tasks do the same for transformers")
        if self.engines > 1 and self.engine_process == "job":
            raise ValueError("engines: more than one need engine_process: own; vLLM has one engine per process")
        return self

    @property
    def gpus(self) -> int:
        """GPUs that one task uses, where there are any."""
        return self.engines * self.tensor_parallel

    def vllm_options(self) -> VllmOptions:
        """What the vLLM engine is started with."""
        from hpcmaf.engines.vllm_options import VllmOptions

        own = {name: getattr(self, name) for name in VllmOptions.__dataclass_fields__ if name != "arguments"}
        return VllmOptions(**own, arguments=self.vllm_args)


class Finetuning(Strict):
    """One finetuning job: torchrun with DeepSpeed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: int = Field(1, ge=1, description="torchrun processes, one per GPU where there are GPUs")
    threads: int = Field(1, ge=1, description="CPU threads of one process")
    wandb: str | None = Field(None, min_length=1, description="a Weights & Biases project to tell of every step")


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
                raise ValueError(
                    f"{section}.device: cuda, but slurm.{section}.gpus asks for none; ask for some, or use device: auto"
                )
            # Without any GPU, auto means processes on CPUs, which may be as many as one likes.
            few = job.gpus > 0 or section == "generation"
            if device != "cpu" and few and used > max(1, job.gpus):
                remedy = f"ask for {used}, or lower {section}.{key}"
                raise ValueError(
                    f"{section}.{key}: {used} GPUs, but slurm.{section}.gpus asks for {job.gpus}; {remedy}"
                )
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
                text = f"{section}: {idle} of {job.gpus} GPUs a node are asked for and idle, up to {hours} of each job"
                more = "generation.engines" if section == "generation" else f"{section}.{key}"
                found.append((text, f"lower slurm.{section}.gpus to {job.gpus - idle}, or use them: {more}"))
        return found

    @property
    def cluster(self) -> Slurm:
        """The ``slurm:`` section of a profile that has one."""
        assert self.slurm is not None, "asked of a profile without Slurm"
        return self.slurm

    def slots(self) -> int:
        """Tasks run at once on this machine."""
        return self.jobs or usable_cores()


def load_profile(
    name: str = DEFAULT_PROFILE, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Profile:
    """Read a profile by path or shipped name.

    Parameters
    ----------
    environment
        A shell's, whose ``SBATCH_ACCOUNT`` and such fill in what the profile
        leaves out. Of a job's nothing is taken: it may be that job's own.

    Raises
    ------
    ConfigError
        One line: file, key, fault, remedy.
    """
    path = Path(name)
    root = shipped_folder("profiles", "slurm/profiles")
    if not path.is_file():
        path = root / f"{name}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(entry.stem for entry in root.glob("*.yaml")))
        raise ConfigError(f"--profile {name}: neither a file nor a shipped profile; shipped are {shipped}")
    profile = validate(Profile, {"name": path.stem} | apply_overrides(read_mapping(path), overrides), str(path))
    if profile.slurm is None or environment is None or "SLURM_JOB_ID" in environment:
        return profile
    return profile.model_copy(update={"slurm": with_defaults(profile.slurm, environment)})
