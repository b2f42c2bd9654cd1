"""This machine: Python packages, GPUs, and whether Python can keep what it compiled."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import cache_from_source, find_spec
from pathlib import Path

from hpcmaf.launch.doctor.finding import Finding, ok, problem, warning
from hpcmaf.launch.executors import visible_gpus
from hpcmaf.profile import Profile

# Imported by every job, and big enough for it to matter.
_BIG = ("torch", "transformers")


def examine_machine(profile: Profile) -> Iterator[Finding]:
    """Look at what jobs will be started with."""
    yield from _packages(profile)
    yield _gpus(profile)
    yield _bytecode()


def _packages(profile: Profile) -> Iterator[Finding]:
    from packaging.requirements import Requirement

    extras = {"vllm"} if profile.generation.engine == "vllm" else set()
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
    if profile.launcher == "local" and asked and not gpus:
        return problem("GPUs", f"{text}, and the profile asks for device: cuda", "use device: auto, or another machine")
    if profile.launcher == "slurm":
        text += "; jobs run on others"
    return ok("GPUs", text)


def _bytecode() -> Finding:
    """Without compiled files every job compiles thousands of modules again."""
    area = "bytecode"
    effect = "every job compiles its modules anew, and takes several times as long to start"
    if sys.dont_write_bytecode or os.environ.get("PYTHONDONTWRITEBYTECODE"):
        return warning(area, f"PYTHONDONTWRITEBYTECODE is set: {effect}", "unset PYTHONDONTWRITEBYTECODE")
    for name in _BIG:
        spec = find_spec(name)  # finds, without importing
        if spec is None or spec.origin is None:
            continue
        kept = Path(cache_from_source(spec.origin))
        folder = kept.parent if kept.parent.is_dir() else kept.parent.parent
        if not kept.exists() and not os.access(folder, os.W_OK):
            return warning(area, f"{folder} takes no .pyc files: {effect}", "python -m compileall, as the owner of it")
    return ok(area, "compiled modules are kept")
