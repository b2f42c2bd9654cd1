"""What this machine and its cluster have, compared with what a profile requests.

Every examination stands alone: one that cannot be made is a finding too, and
the others go on. Whether jobs would be accepted is Slurm's own answer:
``sbatch --test-only`` gets the very scripts that a run submits. sinfo's words
on the nodes stand beside it.
"""

from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from hpcmaf.config.profile import Profile
from hpcmaf.errors import HpcmafError, RunBusyError, SlurmError
from hpcmaf.files.locking import lock
from hpcmaf.files.publish import sync
from hpcmaf.launch.local import visible_gpus
from hpcmaf.launch.slurm.commands import call, configuration
from hpcmaf.launch.slurm.executor import ChainExecutor
from hpcmaf.launch.slurm.refusals import lifting
from hpcmaf.launch.slurm.script import array_limit, check_path, parameters
from hpcmaf.run.directory import RunDir

Level = Literal["ok", "warning", "problem"]

_SECTIONS = ("generation", "finetuning", "merge", "gate")
# Partition (the default with a star), number of nodes, and what they are like; sinfo counts those alike together.
_NODES = "%P|%D with %c CPUs, %m MB, %G, %T"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in an area; a warning may work, or could not be found out, a problem will not work."""

    level: Level
    area: str
    text: str
    remedy: str = ""


warning, problem = partial(Finding, "warning"), partial(Finding, "problem")


def check(area: str, good: str, fault: str = "", remedy: str = "", level: Level = "problem") -> Finding:
    """All is well, unless there is a fault."""
    return Finding(level, area, fault, remedy) if fault else Finding("ok", area, good)


def examine(profile: Profile, run: RunDir, *, probe_seconds: float | None = None) -> Iterator[Finding]:
    """Look at everything; findings come as they are made.

    Parameters
    ----------
    run
        Where a run is, or would be.
    probe_seconds
        Run a small job, and wait so long for nodes to run it on; ``None`` for
        no such job.
    """
    yield _gpus(profile)
    yield from profile_findings(profile)
    yield from _place(run, shared=profile.launcher == "slurm")
    if profile.launcher != "slurm":
        return
    try:
        known = configuration(seconds=profile.cluster.command_seconds)
    except SlurmError as error:
        yield _of_error("controller", error)
        return
    yield check("controller", f"{known.get('ClusterName', '?')}, Slurm {known.get('SLURM_VERSION', '?')}, answers")
    yield check("MaxArraySize", f"{array_limit(known)}; larger stages are submitted in several arrays")
    yield from _jobs(profile, run)
    if probe_seconds is not None:
        from hpcmaf.launch.probe import examine_nodes

        yield from examine_nodes(profile, run, seconds=probe_seconds)
    else:
        yield warning("sbatch in jobs", "whether jobs may submit jobs is not known", "--probe finds out")


def profile_findings(profile: Profile) -> Iterator[Finding]:
    """What a profile asks for that its jobs would do without, or miss; ``hpcmaf plan`` shows it too."""
    for text, remedy in profile.idle_gpus():
        yield warning("GPUs", text, remedy)
    generation = profile.generation
    if generation.engine == "vllm" and not generation.server_command and find_spec("vllm") is None:
        own = profile.slurm is None or profile.slurm.python is None
        text = "generation.engine is vllm, which this Python does not have" + ("" if own else "; jobs run another")
        yield warning("packages", text, "pip install 'hpcmaf[vllm]', name server_command, or use engine: transformers")


def _gpus(profile: Profile) -> Finding:
    count, processes, device = len(visible_gpus()), profile.finetuning.processes, profile.finetuning.device
    text, fault, remedy = f"{count or 'none'} on this machine", "", ""
    if profile.launcher == "slurm":
        text += "; jobs run on others"
    elif not count and "cuda" in {profile.generation.device, device}:
        fault, remedy = f"{text}, and the profile asks for device: cuda", "use device: auto, or another machine"
    elif device != "cpu" and 0 < count < processes:
        fault, remedy = f"{text} for {processes} processes", f"lower finetuning.processes to {count}"
    return check("GPUs", text, fault, remedy)


def _place(run: RunDir, *, shared: bool) -> Iterator[Finding]:
    """The file system of a run directory: does it lock? Whether nodes see it, --probe tries."""
    root = run.root.resolve()
    folder = next(path for path in (root, *root.parents) if path.is_dir())
    try:
        if run.plan.exists():
            run.load_plan()
        if shared:
            check_path(root)
        yield check("run directory", str(root))
    except HpcmafError as error:
        yield _of_error("run directory", error)
    yield _flock(folder)
    yield _fsync(folder)


def _flock(folder: Path) -> Finding:
    """Take a lock twice: the second has to be refused."""
    path = folder / f".hpcmaf-doctor-{uuid.uuid4().hex[:12]}"
    try:
        with lock(path, ""), suppress(RunBusyError), lock(path, ""):
            return problem("locks", f"{folder}: a lock can be taken twice", "put runs elsewhere")
        return check("locks", f"flock works in {folder}")
    except HpcmafError as error:
        return _of_error("locks", error)
    except OSError as error:
        return problem("locks", f"{folder}: {error.strerror}", "name a folder that you may write to: --run")
    finally:
        path.unlink(missing_ok=True)


def _fsync(folder: Path) -> Finding:
    """Where folders cannot be synced, what is published goes without; other errors would stop a run."""
    fault = ""
    try:
        sync(folder)
    except OSError as error:
        fault = f"{folder}: {error.strerror}"
    return check("fsync", f"{folder} can be synced, or does without", fault, "put runs on another file system: --run")


def _of_error(area: str, error: HpcmafError) -> Finding:
    """What is wrong and what to do, which an error has on one line."""
    text, _, remedy = str(error).partition("; ")
    return problem(area, text, remedy or "see the message")


def _jobs(profile: Profile, run: RunDir) -> Iterator[Finding]:
    """Whether Slurm accepts every kind of job."""
    cluster = profile.cluster
    nodes: dict[str, list[str]] = {}
    try:
        for line in call(["sinfo", "--noheader", f"--format={_NODES}"], seconds=cluster.command_seconds).splitlines():
            partition, _, description = line.partition("|")
            nodes.setdefault(partition, []).append(description)
    except SlurmError as error:
        yield warning("sinfo", f"nodes are not known ({error})", "look with sinfo")
    for name in _SECTIONS:
        section, named = f"slurm.{name}", cluster.resources(name).partition or cluster.partition
        asked = [key for key in nodes if (key.rstrip("*") in named.split(",") if named else key.endswith("*"))]
        there = "; ".join(f"nodes of {key.rstrip('*')}: {', '.join(nodes[key])}" for key in asked)
        there = there or "its nodes are not known"
        refusal = _refusal(profile, run, name)
        remedy = lifting(refusal, section, sorted(key.rstrip("*") for key in nodes))
        if re.search("node configuration|node not available", refusal, re.IGNORECASE):
            refusal = f"{refusal}; {there}"
            remedy = f"ask for what they have: {section}.gpus, cpus, memory_gb, nodes, constraint; slurm.gpu_type"
        yield check(name, f"Slurm accepts its job; {there}", refusal, remedy)


def _refusal(profile: Profile, run: RunDir, section: str) -> str:
    """Why Slurm refuses the script of a section's jobs."""
    executor = ChainExecutor(run.root.resolve(), profile.cluster)
    executor.update_parameters(**parameters(profile, section, name="doctor"))
    with tempfile.TemporaryDirectory(prefix="hpcmaf-doctor-") as folder:
        script = Path(folder) / f"{section}.sh"
        script.write_text(executor.script(1), encoding="utf-8")
        try:
            call(["sbatch", "--test-only", str(script)], seconds=profile.cluster.command_seconds)
        except SlurmError as error:
            return str(error)
    return ""
