"""A small job that looks at the nodes from within, for ``hpcmaf doctor --probe``."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import hpcmaf
from hpcmaf.config.profile import Profile
from hpcmaf.errors import HpcmafError, RunBusyError, SlurmError
from hpcmaf.files.locking import lock
from hpcmaf.files.publish import write_json
from hpcmaf.launch.doctor import Finding, check, problem, warning
from hpcmaf.launch.local import visible_gpus
from hpcmaf.launch.slurm.commands import call, cancel, queue
from hpcmaf.launch.slurm.nodes import address_of
from hpcmaf.launch.slurm.script import ChainExecutor, parameters
from hpcmaf.launch.slurm.submissions import Element
from hpcmaf.run.directory import RunDir

_MINUTES = 5
_POLL_SECONDS = 1.0
Answer = dict[str, Any]


def look(folder: Path, options: tuple[str, ...], element: Element) -> None:
    """Write down what this node sees; every node of the job does it.

    Parameters
    ----------
    folder
        Shared, as the run directory is; has the lock, and takes the answers.
    options
        For the trial of sbatch: account, partition and so on of a gate.
    """
    own = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    peers = call(["scontrol", "show", "hostnames", os.environ.get("SLURM_JOB_NODELIST", "")], seconds=60).split()
    answer = {"node": own, "version": hpcmaf.__version__, "gpus": len(visible_gpus()), "address": address_of(own)}
    answer |= {"locked": False, "sbatch": "", "unresolved": []}
    for name in peers:
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            answer["unresolved"].append(name)
    try:
        with lock(folder / "lock", ""):
            pass
    except RunBusyError:
        answer["locked"] = True
    try:
        call(["sbatch", "--test-only", *options, "--wrap=true"], seconds=60)
    except SlurmError as error:
        answer["sbatch"] = str(error)
    write_json(folder / f"answer-{os.environ.get('SLURM_PROCID', '0')}.json", answer)


def examine_nodes(profile: Profile, run: RunDir, *, nodes: int, seconds: float) -> Iterator[Finding]:
    """Submit the job, wait, report what it found, and clean up.

    Parameters
    ----------
    nodes
        How many to look at.
    seconds
        How long to wait; the job is cancelled then.
    """
    root = run.root.resolve()
    shared = next(path for path in (root, *root.parents) if path.is_dir())
    folder, job = shared / f".hpcmaf-doctor-{uuid.uuid4().hex[:8]}", ""
    try:
        with lock(folder / "lock", ""):
            job = _submit(profile, folder, nodes)
            answers, why = _wait(profile, folder, job, nodes, seconds)
        yield from _judge(profile, folder, answers, nodes, why)
    except HpcmafError as error:
        yield problem("nodes", f"the probe failed: {error}", "see the message, then try again")
    finally:
        if job:
            with suppress(SlurmError):  # it has five minutes to live
                cancel([job], seconds=profile.cluster.command_seconds)
                # A job that still writes would bring its folder back.
                deadline = time.monotonic() + 20
                while time.monotonic() < deadline and _state(profile, job)[1]:
                    time.sleep(_POLL_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def _submit(profile: Profile, folder: Path, nodes: int) -> str:
    values = parameters(profile, "generation", name=folder.name.strip("."))
    values |= {"nodes": nodes, "time": _MINUTES, "signal_delay_s": 30}
    values["additional_parameters"].pop("requeue", None)
    values["additional_parameters"]["no-requeue"] = True
    gate = parameters(profile, "gate", name="probe")
    options = tuple(f"--{key}={gate[key]}" for key in ("account", "partition", "qos", "constraint") if key in gate)
    executor = ChainExecutor(folder / "job", profile.cluster)
    executor.update_parameters(**values)
    return executor.submit_elements(partial(look, folder, options), [()], 60.0)


def _state(profile: Profile, job: str) -> tuple[str, bool]:
    """A job's state and reason in words, and whether it may still run."""
    found = [found for found in queue(seconds=profile.cluster.command_seconds) if found.id == job]
    words = [f"{one.state.lower()}{f', {one.reason}' if one.reason not in {'', 'None'} else ''}" for one in found]
    return (words or ["unknown"])[0], any(one.live for one in found)


def _wait(profile: Profile, folder: Path, job: str, nodes: int, seconds: float) -> tuple[list[Answer], str]:
    """What the nodes wrote, and why some of them did not."""
    deadline, why = time.monotonic() + seconds, ""
    while True:
        answers = [json.loads(path.read_bytes()) for path in sorted(folder.glob("answer-*.json"))]
        if len(answers) >= nodes or why:
            return answers, why
        state, live = _state(profile, job)
        if not live:
            why = f"job {job} ended as {state}"
            time.sleep(3 * _POLL_SECONDS)  # a file server may be late
        elif time.monotonic() > deadline:
            why = f"job {job} was {state} after {seconds:g} s, and was cancelled"
        time.sleep(_POLL_SECONDS)


def _judge(profile: Profile, folder: Path, answers: list[Answer], nodes: int, why: str) -> Iterator[Finding]:
    if not answers:
        why += _last_line(folder)
        if "was cancelled" in why:
            yield warning("nodes", f"no answer: {why}", "try again when the cluster is less busy, or with --wait")
        else:
            remedy = "see that nodes have this folder and this Python: setup, python in the profile"
            yield problem("nodes", f"no node could write to {folder.parent}: {why}", remedy)
        return
    own, wanted = hpcmaf.__version__, profile.cluster.generation.gpus

    names = ", ".join(sorted(answer["node"] for answer in answers))
    fault = f"{len(answers)} of {nodes} answered ({names}): {why}" if len(answers) < nodes else ""
    yield check("nodes", f"{names}: see {folder.parent}, and run this Python", fault, "try again", "warning")

    others = ", ".join(sorted({answer["version"] for answer in answers} - {own}))
    fault = f"hpcmaf {others} there, {own} here" if others else ""
    remedy = "use one installation everywhere: python in the profile"
    yield check("package on nodes", f"hpcmaf {own}, as here", fault, remedy)

    free = ", ".join(sorted(answer["node"] for answer in answers if not answer["locked"]))
    fault = f"a lock taken here is not seen on {free}" if free else ""
    remedy = "put runs on a file system whose flock works across nodes"
    yield check("locks across nodes", "a lock taken here is seen there", fault, remedy)

    if len(answers) > 1:
        addresses = ", ".join(f"{answer['node']} is {answer['address']}" for answer in answers)
        unknown = ", ".join(sorted({name for answer in answers for name in answer["unresolved"]}))
        lost = ", ".join(answer["node"] for answer in answers if answer["address"] == answer["node"])
        if unknown and lost:
            text = f"{lost}: no address is known under which others reach it"
            remedy = "name the interface they share, NCCL_SOCKET_IFNAME, in slurm.setup; or have names resolved there"
            yield problem("names of nodes", text, remedy)
        else:
            fault = f"{unknown}: no name service knows them; nodes meet by address ({addresses})" if unknown else ""
            remedy = "nothing has to be done, as long as nodes reach each other at these addresses"
            yield check("names of nodes", f"nodes know each other ({addresses})", fault, remedy, "warning")

    refusal = next((answer["sbatch"] for answer in answers if answer["sbatch"]), "")
    good = "jobs may not submit jobs; the presubmitted chain needs none that do" if refusal else "jobs may submit jobs"
    fault = refusal if profile.cluster.chain == "gated" else ""
    yield check("sbatch in jobs", good, fault, "set slurm.chain to presubmitted")

    fewest = min(answer["gpus"] for answer in answers)
    text = f"{fewest} visible, {wanted} requested"
    yield check("GPUs on nodes", text, text if fewest < wanted else "", "check gpu_option, gpu_type and drivers")


def _last_line(folder: Path) -> str:
    """Of the job's log, where it could write one; srun's own only has that it ended."""
    logs = [path.read_text(errors="replace") for path in (folder / "job").glob("*_log.err")]
    lines = [line.strip() for line in "\n".join(logs).split("\n") if line.strip()]
    words = [line for line in lines if not line.startswith("srun:")] or lines
    return f" ({words[-1][:200]})" if words else ""
