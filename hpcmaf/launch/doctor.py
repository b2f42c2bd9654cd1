"""What this machine, its file system and its cluster have, compared with what a profile requests.

Every examination stands alone: one that cannot be made is a finding too, and the others go on. Whether jobs would be
accepted is Slurm's own answer: ``sbatch --test-only`` gets the very scripts that a run submits. What nodes see from
within is found out by this module too, which srun starts on them.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from hpcmaf.config.profile import Profile
from hpcmaf.cores import visible_gpus
from hpcmaf.errors import HpcmafError, SlurmError
from hpcmaf.files.locking import is_locked, lock
from hpcmaf.files.publish import sync
from hpcmaf.launch.slurm.commands import call, configuration
from hpcmaf.launch.slurm.nodes import address_of
from hpcmaf.launch.slurm.refusals import lifting
from hpcmaf.launch.slurm.script import array_limit, batch_script, check_path, parameters
from hpcmaf.run.directory import RunDir

_SECTIONS = ("generation", "finetuning", "merge", "gate")
_WHERE = ("account", "partition", "qos", "constraint")
_PROBE_MINUTES = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in an area; a warning may work, or could not be found out, a problem will not work."""

    level: Literal["ok", "warning", "problem"]
    area: str
    text: str
    remedy: str = ""


_warning, _problem = partial(Finding, "warning"), partial(Finding, "problem")


def _check(area: str, good: str, fault: str, remedy: str) -> Finding:
    """All is well, unless there is a fault."""
    return _problem(area, fault, remedy) if fault else Finding("ok", area, good)


def _of_error(area: str, error: HpcmafError) -> Finding:
    """What is wrong and what to do, which an error has on one line."""
    text, _, remedy = str(error).partition("; ")
    return _problem(area, text, remedy or "see the message")


def examine(profile: Profile, run: RunDir, *, probe_seconds: float | None = None) -> Iterator[Finding]:
    """Look at everything; findings come as they are made.

    Parameters
    ----------
    run
        Where a run is, or would be.
    probe_seconds
        Run a small job, and wait so long for nodes to run it on; ``None`` for no such job.
    """
    root, on_cluster = run.root.resolve(), profile.launcher == "slurm"
    folder = next(path for path in (root, *root.parents) if path.is_dir())
    yield _gpus(profile)
    yield from profile_findings(profile)
    try:
        if run.plan.exists():
            run.load_plan()
        if on_cluster:
            check_path(root)
        yield Finding("ok", "run directory", str(root))
    except HpcmafError as error:
        yield _of_error("run directory", error)
    yield _file_system(folder)
    if not on_cluster:
        return
    try:
        known = configuration(seconds=profile.cluster.command_seconds)
    except SlurmError as error:
        yield _of_error("controller", error)
        return
    limit = f"answers; at most {array_limit(known)} tasks in one job array"
    yield Finding("ok", "controller", f"{known.get('ClusterName', '?')}, Slurm {known.get('SLURM_VERSION')}, {limit}")
    for section in _SECTIONS:
        refusal = _refusal(profile, root, section)
        yield _check(section, "Slurm accepts its job", refusal, lifting(refusal, f"slurm.{section}"))
    if probe_seconds is not None:
        yield from _nodes(profile, folder, probe_seconds)
    else:
        yield _warning("sbatch in jobs", "whether jobs may submit jobs is not known", "--probe finds out")


def profile_findings(profile: Profile) -> Iterator[Finding]:
    """What a profile asks for that its jobs would do without, or miss; ``hpcmaf plan`` shows it too."""
    for text, remedy in profile.idle_gpus():
        yield _warning("GPUs", text, remedy)
    generation = profile.generation
    if generation.engine == "vllm" and not generation.server_command and find_spec("vllm") is None:
        own = profile.slurm is None or profile.slurm.python is None
        text = "generation.engine is vllm, which this Python does not have" + ("" if own else "; jobs run another")
        yield _warning("packages", text, "pip install 'hpcmaf[vllm]', name server_command, or use engine: transformers")


def _gpus(profile: Profile) -> Finding:
    count, processes, device = len(visible_gpus()), profile.finetuning.processes, profile.finetuning.device
    text, fault, remedy = f"{count or 'none'} on this machine", "", ""
    if profile.launcher == "slurm":
        text += "; jobs run on others"
    elif not count and "cuda" in {profile.generation.device, device}:
        fault, remedy = f"{text}, and the profile asks for device: cuda", "use device: auto, or another machine"
    elif device != "cpu" and 0 < count < processes:
        fault, remedy = f"{text} for {processes} processes", f"lower finetuning.processes to {count}"
    return _check("GPUs", text, fault, remedy)


def _trial(folder: Path) -> Path:
    """A file to lock."""
    return folder / f".hpcmaf-doctor-{uuid.uuid4().hex[:12]}"


def _file_system(folder: Path) -> Finding:
    """Runs need locks; where folders cannot be synced, what is published goes without, but other errors stop a run."""
    path, area = _trial(folder), "file system"
    try:
        with lock(path, ""):
            sync(folder)
        return Finding("ok", area, f"{folder} has flock, and can be synced or does without")
    except HpcmafError as error:
        return _of_error(area, error)
    except OSError as error:
        return _problem(area, f"{folder}: {error.strerror}", "name another folder, that you may write to: --run")
    finally:
        path.unlink(missing_ok=True)


def _refusal(profile: Profile, root: Path, section: str) -> str:
    """Why Slurm refuses the script of a section's jobs."""
    text = batch_script(root, profile.cluster.python, parameters(profile, section, name="doctor"))
    with tempfile.TemporaryDirectory(prefix="hpcmaf-doctor-") as folder:
        script = Path(folder) / f"{section}.sh"
        script.write_text(text, encoding="utf-8")
        return _test_only([str(script)], profile.cluster.command_seconds)


def _test_only(words: Sequence[str], seconds: float) -> str:
    """Why sbatch would refuse a job."""
    try:
        call(["sbatch", "--test-only", *words], seconds=seconds)
    except SlurmError as error:
        return str(error)
    return ""


# --- on nodes


def _nodes(profile: Profile, folder: Path, seconds: float) -> Iterator[Finding]:
    """Have as many nodes look as a finetuning job has, but no more than two; report what they see."""
    path = _trial(folder)
    try:
        with lock(path, ""):
            text = call(_srun(profile, path, round(seconds)), seconds=seconds + 60 * _PROBE_MINUTES)
    except HpcmafError as error:
        if "allocate" in str(error):
            yield _warning("nodes", f"no node: {error}", "try again when the cluster is less busy, or with --wait")
        else:
            yield _problem("nodes", str(error), "see that nodes have this Python: setup, python in the profile")
        return
    finally:
        path.unlink(missing_ok=True)
    seen = [json.loads(line) for line in text.splitlines() if line.startswith('{"node"')]
    if not seen:
        yield _problem("nodes", "srun ended well, but no node answered", "see what slurm.setup prints, and try again")
        return
    remedy = "put runs on a shared file system, whose locks all nodes see: --run FOLDER/NAME"
    names = ", ".join(sorted(node["node"] for node in seen))
    blind = ", ".join(node["node"] for node in seen if not node["sees"])
    yield _check("nodes", f"{names}: see {folder}, and run this Python", blind and f"{blind}: no {folder}", remedy)
    free = ", ".join(node["node"] for node in seen if not node["locked"])
    fault = f"a lock taken here is not seen on {free}" if free else ""
    yield _check("locks across nodes", "a lock taken here is seen there", fault, remedy)
    if len(seen) > 1:
        addresses = ", ".join(f"{node['node']} is {node['address']}" for node in seen)
        if unknown := ", ".join(sorted({name for node in seen for name in node["unresolved"]})):
            remedy = "nothing, if these are numbers and nodes reach each other there; else name the interface they "
            remedy += "share, NCCL_SOCKET_IFNAME, in slurm.setup"
            text = f"{unknown}: no name service knows them; nodes meet by address ({addresses})"
            yield _warning("names of nodes", text, remedy)
        else:
            yield Finding("ok", "names of nodes", f"nodes know each other ({addresses})")
    refusal = next((node["sbatch"] for node in seen if node["sbatch"]), "")
    remedy = "on a login node, give hpcmaf submit again whenever a stage has ended"
    yield _check("sbatch in jobs", "jobs may submit jobs", refusal, remedy)
    fewest, wanted = min(node["gpus"] for node in seen), profile.cluster.generation.gpus
    text = f"{fewest} visible, {wanted} requested"
    yield _check("GPUs on nodes", text, text if fewest < wanted else "", "check gpu_option, gpu_type and drivers")


def _srun(profile: Profile, path: Path, seconds: int) -> list[str]:
    """The call of srun, with what a debate's job asks for."""
    values, gate = parameters(profile, "generation", name="probe"), parameters(profile, "gate", name="probe")
    options = {key: values[key] for key in (*_WHERE, "mem", "gres", "exclude") if key in values}
    options |= {key: value for key, value in values["additional_parameters"].items() if key != "requeue"}
    options |= {"immediate": seconds, "nodes": min(2, profile.cluster.finetuning.nodes), "ntasks-per-node": 1}
    options |= {"time": _PROBE_MINUTES, "cpus-per-task": values["cpus_per_task"]}
    words = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    trial = [f"--{key}={gate[key]}" for key in _WHERE if key in gate]
    python = profile.cluster.python or shlex.quote(sys.executable)
    lines = [*values["setup"], f"exec {python} -m hpcmaf.launch.doctor {shlex.join([str(path), *trial])}"]
    return ["srun", *words, "bash", "-c", "\n".join(lines)]


def _look(path: Path, options: Sequence[str]) -> dict[str, Any]:
    """What this node sees.

    Parameters
    ----------
    path
        A file in the run's folder that is locked elsewhere.
    options
        For the trial of sbatch: account, partition and so on of a gate.
    """
    own, unresolved = os.environ.get("SLURMD_NODENAME") or socket.gethostname(), []
    for name in call(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]], seconds=60).split():
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            unresolved.append(name)
    refusal, sees = _test_only([*options, "--wrap=true"], 60), path.exists()
    answer = {"node": own, "gpus": len(visible_gpus()), "address": address_of(own), "sees": sees, "sbatch": refusal}
    return answer | {"locked": is_locked(path), "unresolved": unresolved}


if __name__ == "__main__":
    print(json.dumps(_look(Path(sys.argv[1]), sys.argv[2:])), flush=True)
