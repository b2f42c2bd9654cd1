"""What nodes see from within, for ``hpcmaf doctor --probe``: srun starts this module on them."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hpcmaf.config.profile import Profile
from hpcmaf.errors import HpcmafError, RunBusyError, SlurmError
from hpcmaf.files.locking import lock
from hpcmaf.launch.doctor import Finding, check, problem, warning
from hpcmaf.launch.local import visible_gpus
from hpcmaf.launch.slurm.commands import call
from hpcmaf.launch.slurm.nodes import address_of
from hpcmaf.launch.slurm.script import parameters
from hpcmaf.run.directory import RunDir

_MINUTES = 5
_WHERE = ("account", "partition", "qos", "constraint")


def look(path: Path, options: Sequence[str]) -> dict[str, Any]:
    """What this node sees.

    Parameters
    ----------
    path
        A file in the run's folder that is locked elsewhere.
    options
        For the trial of sbatch: account, partition and so on of a gate.
    """
    own, refusal, locked, unresolved = os.environ.get("SLURMD_NODENAME") or socket.gethostname(), "", False, []
    for name in call(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]], seconds=60).split():
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            unresolved.append(name)
    if path.exists():
        try:
            with lock(path, ""):
                pass
        except RunBusyError:
            locked = True
    try:
        call(["sbatch", "--test-only", *options, "--wrap=true"], seconds=60)
    except SlurmError as error:
        refusal = str(error)
    answer = {"node": own, "gpus": len(visible_gpus()), "address": address_of(own)}
    return answer | {"sees": path.exists(), "locked": locked, "sbatch": refusal, "unresolved": unresolved}


def examine_nodes(profile: Profile, run: RunDir, *, seconds: float) -> Iterator[Finding]:
    """Have as many nodes look as a finetuning job has, but no more than two; report what they see.

    Parameters
    ----------
    seconds
        How long to wait for nodes.
    """
    root = run.root.resolve()
    folder = next(path for path in (root, *root.parents) if path.is_dir())
    path, nodes = folder / f".hpcmaf-doctor-{uuid.uuid4().hex[:8]}", min(2, profile.cluster.finetuning.nodes)
    try:
        with lock(path, ""):
            command = _command(profile, path, nodes, round(seconds))
            text = call(command, seconds=seconds + 60 * _MINUTES)
    except HpcmafError as error:
        if "allocate" in str(error):
            yield warning("nodes", f"no node: {error}", "try again when the cluster is less busy, or with --wait")
        else:
            yield problem("nodes", str(error), "see that nodes have this Python: setup, python in the profile")
        return
    finally:
        path.unlink(missing_ok=True)
    answers = [json.loads(line) for line in text.splitlines() if line.startswith('{"node"')]
    if answers:
        yield from _judge(profile, folder, answers)
    else:
        yield problem("nodes", "srun ended well, and no node said a word", "see what slurm.setup prints, and try again")


def _command(profile: Profile, path: Path, nodes: int, seconds: int) -> list[str]:
    """The call of srun, with what a debate's job asks for."""
    values, gate = parameters(profile, "generation", name="probe"), parameters(profile, "gate", name="probe")
    options = {key: values[key] for key in (*_WHERE, "mem", "gres", "exclude") if key in values}
    options |= {key: value for key, value in values["additional_parameters"].items() if key != "requeue"}
    options |= {"immediate": seconds, "nodes": nodes, "ntasks-per-node": 1, "time": _MINUTES}
    options["cpus-per-task"] = values["cpus_per_task"]
    words = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    trial = [f"--{key}={gate[key]}" for key in _WHERE if key in gate]
    python = profile.cluster.python or shlex.quote(sys.executable)
    lines = [*values["setup"], f"exec {python} -m hpcmaf.launch.probe {shlex.join([str(path), *trial])}"]
    return ["srun", *words, "bash", "-c", "\n".join(lines)]


def _judge(profile: Profile, folder: Path, answers: list[dict[str, Any]]) -> Iterator[Finding]:
    remedy = "put runs on a shared file system, whose locks all nodes see: --run FOLDER/NAME"
    names = ", ".join(sorted(answer["node"] for answer in answers))
    blind = ", ".join(answer["node"] for answer in answers if not answer["sees"])
    yield check("nodes", f"{names}: see {folder}, and run this Python", blind and f"{blind}: no {folder}", remedy)
    free = ", ".join(answer["node"] for answer in answers if not answer["locked"])
    fault = f"a lock taken here is not seen on {free}" if free else ""
    yield check("locks across nodes", "a lock taken here is seen there", fault, remedy)

    if len(answers) > 1:
        addresses = ", ".join(f"{answer['node']} is {answer['address']}" for answer in answers)
        unknown = ", ".join(sorted({name for answer in answers for name in answer["unresolved"]}))
        fault = f"{unknown}: no name service knows them; nodes meet by address ({addresses})" if unknown else ""
        remedy = "nothing, if these are numbers and nodes reach each other there; else name the interface they share, "
        remedy += "NCCL_SOCKET_IFNAME, in slurm.setup"
        yield check("names of nodes", f"nodes know each other ({addresses})", fault, remedy, "warning")

    refusal = next((answer["sbatch"] for answer in answers if answer["sbatch"]), "")
    remedy = "on a login node, give hpcmaf submit again whenever a stage has ended"
    yield check("sbatch in jobs", "jobs may submit jobs", refusal, remedy)

    fewest, wanted = min(answer["gpus"] for answer in answers), profile.cluster.generation.gpus
    text = f"{fewest} visible, {wanted} requested"
    yield check("GPUs on nodes", text, text if fewest < wanted else "", "check gpu_option, gpu_type and drivers")


if __name__ == "__main__":
    print(json.dumps(look(Path(sys.argv[1]), sys.argv[2:])), flush=True)
