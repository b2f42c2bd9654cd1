"""A small job that looks at the nodes from within."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hpcmaf
from hpcmaf.config.profile import Profile
from hpcmaf.errors import HpcmafError, RunBusyError, SlurmError
from hpcmaf.files.locking import lock
from hpcmaf.files.publish import write_json
from hpcmaf.launch.doctor.finding import Finding, ok, problem, warning
from hpcmaf.launch.executors import visible_gpus
from hpcmaf.launch.slurm.commands import call, cancel, queue
from hpcmaf.launch.slurm.executor import ChainExecutor
from hpcmaf.launch.slurm.nodes import address_of
from hpcmaf.launch.slurm.requests import Element, parameters
from hpcmaf.run.directory import RunDir

_AREA = "nodes"
_MINUTES = 5
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Probe:
    """What every node of the job does; pickled by submitit.

    Parameters
    ----------
    folder
        Shared, as the run directory is; holds the lock and takes the answers.
    options
        For the trial of sbatch: account, partition and so on of a gate.
    """

    folder: str
    options: tuple[str, ...]

    def __call__(self, element: Element) -> None:
        """Write down what this node sees."""
        folder = Path(self.folder)
        own = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        answer: dict[str, Any] = {
            "node": own,
            "version": hpcmaf.__version__,
            "gpus": len(visible_gpus()),
            "locked": _locked(folder / "lock"),
            "sbatch": "",
            "address": address_of(own),
            "unresolved": [name for name in _peers() if not _resolves(name)],
        }
        try:
            call(["sbatch", "--test-only", *self.options, "--wrap=true"], seconds=60)
        except SlurmError as error:
            answer["sbatch"] = str(error)
        write_json(folder / f"answer-{os.environ.get('SLURM_PROCID', '0')}.json", answer)


def _locked(path: Path) -> bool:
    try:
        with lock(path, ""):
            return False
    except RunBusyError:
        return True


def _peers() -> list[str]:
    """Names of all nodes of this job."""
    return call(["scontrol", "show", "hostnames", os.environ.get("SLURM_JOB_NODELIST", "")], seconds=60).split()


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False


def examine_nodes(profile: Profile, run: RunDir, *, nodes: int, seconds: float) -> Iterator[Finding]:
    """Submit the job, wait, say what it found, and clean up.

    Parameters
    ----------
    nodes
        How many to look at.
    seconds
        How long to wait; the job is cancelled then.
    """
    root = run.root.resolve()
    place = root if root.is_dir() else next(path for path in root.parents if path.is_dir())
    folder = place / f".hpcmaf-doctor-{uuid.uuid4().hex[:8]}"
    job = None
    try:
        with lock(folder / "lock", ""):
            try:
                job = _submit(profile, folder, nodes)
                answers, why = _await(profile, folder, job, nodes, seconds)
            except HpcmafError as error:
                yield problem(_AREA, f"the probe failed: {error}", "mend what it says, then try again")
                return
        yield from _judge(profile, folder, answers, nodes, why)
    finally:
        if job is not None:
            _end(profile, job)
        shutil.rmtree(folder, ignore_errors=True)


def _submit(profile: Profile, folder: Path, nodes: int) -> str:
    values = parameters(profile, "debate", name=folder.name.strip("."))
    values |= {"nodes": nodes, "time": _MINUTES, "signal_delay_s": 30}
    extra = {name: value for name, value in values["additional_parameters"].items() if name != "requeue"}
    values["additional_parameters"] = {**extra, "no-requeue": True}
    gate = parameters(profile, "gate", name="probe")
    options = tuple(f"--{key}={gate[key]}" for key in ("account", "partition", "qos", "constraint") if key in gate)
    executor = ChainExecutor(folder / "job", profile.cluster)
    executor.update_parameters(**values)
    return executor.submit_elements(Probe(str(folder), options), [()], 60.0)


def _await(profile: Profile, folder: Path, job: str, nodes: int, seconds: float) -> tuple[list[dict[str, Any]], str]:
    """What the nodes wrote, and why some of them did not."""
    deadline = time.monotonic() + seconds
    ended, state = False, "unknown"
    while True:
        answers = [json.loads(path.read_bytes()) for path in sorted(folder.glob("answer-*.json"))]
        if len(answers) >= nodes:
            return answers, ""
        if ended:
            return answers, f"job {job} ended as {state}"
        jobs = [found for found in queue(seconds=profile.cluster.command_seconds) if found.id == job]
        state = jobs[0].state if jobs else "unknown"
        ended = not any(found.live for found in jobs)
        if ended:
            time.sleep(3 * _POLL_SECONDS)  # a file server may be late
        elif time.monotonic() > deadline:
            reason = f", {jobs[0].reason}" if jobs[0].reason not in {"", "None"} else ""
            return answers, f"job {job} was {state.lower()}{reason} after {seconds:g} s, and was cancelled"
        time.sleep(_POLL_SECONDS)


def _end(profile: Profile, job: str) -> None:
    """Cancel what is left, and wait a little: a job that writes would bring its folder back."""
    try:
        deadline = time.monotonic() + 20
        cancel([job], seconds=profile.cluster.command_seconds)
        while time.monotonic() < deadline:
            if not any(found.id == job and found.live for found in queue(seconds=profile.cluster.command_seconds)):
                return
            time.sleep(_POLL_SECONDS)
    except SlurmError:
        return  # it has five minutes to live


def _judge(
    profile: Profile, folder: Path, answers: Sequence[Mapping[str, Any]], nodes: int, why: str
) -> Iterator[Finding]:
    if not answers:
        words = _last_words(folder)
        if why.endswith("cancelled"):
            yield warning(_AREA, f"no answer: {why}{words}", "try again when the cluster is less busy, or with --wait")
        else:
            remedy = "see that nodes have this folder and this Python: setup, python in the profile"
            yield problem(_AREA, f"no node could write to {folder.parent}: {why}{words}", remedy)
        return
    names = ", ".join(sorted(str(answer["node"]) for answer in answers))
    if len(answers) < nodes:
        yield warning(_AREA, f"{len(answers)} of {nodes} answered ({names}): {why}", "try again")
    else:
        yield ok(_AREA, f"{names}: see {folder.parent}, and run this Python")
    if foreign := sorted({str(answer["version"]) for answer in answers} - {hpcmaf.__version__}):
        remedy = "use one installation everywhere: python in the profile"
        yield problem("package on nodes", f"hpcmaf {', '.join(foreign)} there, {hpcmaf.__version__} here", remedy)
    else:
        yield ok("package on nodes", f"hpcmaf {hpcmaf.__version__}, as here")
    if free := sorted(str(answer["node"]) for answer in answers if not answer["locked"]):
        yield problem(
            "locks across nodes",
            f"a lock held here is not seen on {', '.join(free)}",
            "put runs on a file system whose flock holds across nodes",
        )
    else:
        yield ok("locks across nodes", "a lock held here is seen there")
    yield from _names(answers)
    refusals = {str(answer["sbatch"]) for answer in answers if answer["sbatch"]}
    if not refusals:
        yield ok("sbatch in jobs", "jobs may submit jobs")
    elif profile.cluster.chain == "gated":
        yield problem("sbatch in jobs", refusals.pop(), "set slurm.chain to presubmitted")
    else:
        yield ok("sbatch in jobs", "jobs may not submit jobs; the presubmitted chain needs none that do")
    wanted = profile.cluster.generation.gpus
    fewest = min(int(answer["gpus"]) for answer in answers)
    if fewest < wanted:
        yield problem(
            "GPUs on nodes", f"{fewest} visible, {wanted} asked for", "check gpu_option, gpu_type and drivers"
        )
    else:
        yield ok("GPUs on nodes", f"{fewest} visible, {wanted} asked for")


def _names(answers: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Whether nodes know each other; finetuning on several meets at an address, and needs no names for that."""
    if len(answers) < 2:
        return
    area = "names of nodes"
    addresses = ", ".join(f"{answer['node']} is {answer['address']}" for answer in answers)
    unknown = sorted({name for answer in answers for name in answer["unresolved"]})
    lost = sorted(str(answer["node"]) for answer in answers if answer["address"] == answer["node"])
    if lost and unknown:
        remedy = "name the interface they share, NCCL_SOCKET_IFNAME, in slurm.setup; or have names resolved there"
        yield problem(area, f"{', '.join(lost)}: no address is known under which others reach it", remedy)
    elif unknown:
        text = f"{', '.join(unknown)}: no name service knows them; nodes meet by address ({addresses})"
        yield warning(area, text, "nothing has to be done, as long as nodes reach each other at these addresses")
    else:
        yield ok(area, f"nodes know each other ({addresses})")


def _last_words(folder: Path) -> str:
    """The last line of the job's log, where it could write one; srun's own only says that it ended."""
    for path in sorted((folder / "job").glob("*_log.err")):
        lines = [line.strip() for line in path.read_text(errors="replace").split("\n") if line.strip()]
        if lines:
            return f" ({next((line for line in reversed(lines) if not line.startswith('srun:')), lines[-1])[:200]})"
    return ""
