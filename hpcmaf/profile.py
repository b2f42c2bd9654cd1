"""A profile: how one site runs jobs, and nothing about the science."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from hpcmaf.configfile import Strict, apply_overrides, read_mapping, shipped_folder, validate
from hpcmaf.errors import ConfigError

DEFAULT_PROFILE = "local"


class Generation(Strict):
    """One debate task: an engine in a process of its own."""

    engine: Literal["transformers"] = "transformers"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: int = Field(128, ge=1, description="requests generated together")
    loaded_models: int = Field(8, ge=1, description="fully finetuned models kept in memory at once")
    problems_per_shard: int = Field(250, ge=1, description="problems of one debate task")
    max_shards: int = Field(1000, ge=1, description="most debate tasks of one stage")
    threads: int = Field(1, ge=1, description="CPU threads of one task")


class Finetuning(Strict):
    """One finetuning job: torchrun with DeepSpeed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: int = Field(1, ge=1, description="torchrun processes, one per GPU where there are GPUs")
    threads: int = Field(1, ge=1, description="CPU threads of one process")


class Profile(Strict):
    """One site, as written in ``slurm/profiles/<site>.yaml``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    launcher: Literal["local"] = "local"
    jobs: int | None = Field(None, ge=1, description="tasks run at once; leave out for one per CPU core")
    attempts: int = Field(3, ge=1, description="times a task that was killed is started in all")
    generation: Generation = Generation()
    finetuning: Finetuning = Finetuning()

    def slots(self) -> int:
        """Tasks run at once on this machine."""
        return self.jobs or len(os.sched_getaffinity(0))


def load_profile(name: str = DEFAULT_PROFILE, overrides: Sequence[str] = ()) -> Profile:
    """Read a profile by path or shipped name.

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
    return validate(Profile, {"name": path.stem} | apply_overrides(read_mapping(path), overrides), str(path))
