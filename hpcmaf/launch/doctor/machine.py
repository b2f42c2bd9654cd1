"""This machine and a profile: Python packages and GPUs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec

from hpcmaf.config.profile import Profile
from hpcmaf.config.slurm import unnamed
from hpcmaf.launch.doctor.finding import Finding, ok, problem, warning
from hpcmaf.launch.executors import visible_gpus


def examine_machine(profile: Profile) -> Iterator[Finding]:
    """Look at what jobs will be started with."""
    yield from _packages(profile)
    yield _gpus(profile)
    # What packages lack is told above, with their versions.
    yield from (found for found in profile_findings(profile) if found.area != "packages")


def profile_findings(profile: Profile) -> Iterator[Finding]:
    """What a profile asks for that its jobs would do without, or miss; ``hpcmaf plan`` shows it too."""
    for text, remedy in profile.idle_gpus():
        yield warning("GPUs", text, remedy)
    generation = profile.generation
    if generation.engine == "vllm" and not generation.server_command and find_spec("vllm") is None:
        own = profile.slurm is None or profile.slurm.python is None
        text = "generation.engine is vllm, which this Python does not have" + ("" if own else "; jobs run another")
        yield warning("packages", text, "pip install 'hpcmaf[vllm]', name server_command, or use engine: transformers")
    if profile.slurm is not None and "SLURM_JOB_ID" in os.environ:
        for name in unnamed(profile.slurm, os.environ):
            text = f"{name}={os.environ[name]} is this job's, and passed over"
            yield warning("profile", text, f"set slurm.{name.removeprefix('SBATCH_').lower()} in the profile")


def _packages(profile: Profile) -> Iterator[Finding]:
    from packaging.requirements import Requirement

    own = profile.generation.engine == "vllm" and not profile.generation.server_command
    extras = {"vllm"} if own else set()
    try:
        lines = metadata.requires("hpcmaf") or []
    except metadata.PackageNotFoundError:
        yield warning("packages", "hpcmaf is not installed, so nothing says what it needs", "pip install -e .")
        return
    fitting = []
    for requirement in map(Requirement, lines):
        environments = [{"extra": extra} for extra in extras] or [{"extra": ""}]
        if requirement.marker and not any(map(requirement.marker.evaluate, environments)):
            continue
        remedy = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield problem("packages", f"{requirement.name} is not installed", remedy)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            fitting.append(f"{requirement.name} {version}")
        else:
            yield problem("packages", f"{requirement.name} is {version}, not {requirement.specifier}", remedy)
    yield ok("packages", f"Python {platform.python_version()}, {', '.join(fitting)}")


def _gpus(profile: Profile) -> Finding:
    gpus = visible_gpus()
    text = f"{len(gpus)} on this machine" if gpus else "none on this machine"
    asked = "cuda" in {profile.generation.device, profile.finetuning.device}
    processes = profile.finetuning.processes
    if profile.launcher == "local" and asked and not gpus:
        return problem("GPUs", f"{text}, and the profile asks for device: cuda", "use device: auto, or another machine")
    if profile.launcher == "local" and profile.finetuning.device != "cpu" and gpus and processes > len(gpus):
        return problem("GPUs", f"{text} for {processes} processes", f"lower finetuning.processes to {len(gpus)}")
    if profile.launcher == "slurm":
        text += "; jobs run on others"
    return ok("GPUs", text)
