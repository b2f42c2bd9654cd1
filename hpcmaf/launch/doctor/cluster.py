"""Slurm itself: its commands, its controller, its limits."""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator, Mapping

from hpcmaf.config.profile import Profile
from hpcmaf.errors import SlurmError
from hpcmaf.launch.doctor.finding import Finding, ok, problem, warning
from hpcmaf.launch.slurm.commands import AccountingAbsentError, accounting, configuration, queue
from hpcmaf.launch.slurm.requests import array_limit

_NEEDED = ("sbatch", "srun", "squeue", "scancel", "scontrol")
_USEFUL = {"sinfo": "to look around", "sacct": "to tell why jobs ended"}

# Under this the process of a finetuning job may not get to the end of a step.
_SHORT_KILL_WAIT = 30
_SLOW_ANSWER = 5.0


def examine_cluster(profile: Profile) -> Generator[Finding, None, Mapping[str, str] | None]:
    """Whether Slurm can be used from here; returns its configuration, where it answers."""
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        remedy = "run this where Slurm's commands are (a login node; module load slurm), or use --profile local"
        yield problem("Slurm commands", f"{', '.join(missing)}: not found", remedy)
        return None
    absent = [f"{name} ({why})" for name, why in _USEFUL.items() if shutil.which(name) is None]
    if absent:
        yield warning("Slurm commands", f"not found: {', '.join(absent)}", "install Slurm's client commands")
    else:
        yield ok("Slurm commands", f"{', '.join([*_NEEDED, *_USEFUL])} found")
    began = time.monotonic()
    try:
        known = configuration(seconds=profile.cluster.command_seconds)
    except SlurmError as error:
        yield problem("controller", str(error), "wait until Slurm answers, or ask its operators")
        return None
    took = time.monotonic() - began
    text = f"{known.get('ClusterName', '?')}, Slurm {known.get('SLURM_VERSION', '?')}, answered in {took:.1f} s"
    if took > _SLOW_ANSWER:
        yield warning("controller", text, "raise slurm.command_seconds; gates wait slurm.patience_minutes")
    else:
        yield ok("controller", text)
    yield _squeue(profile)
    yield _accounting(profile)
    yield _arrays(known, profile)
    yield _kill_wait(known, profile)
    return known


def _squeue(profile: Profile) -> Finding:
    try:
        jobs = queue(seconds=profile.cluster.command_seconds)
    except SlurmError as error:
        return problem("squeue", str(error), "a run's jobs are found by squeue --me --array; use a newer Slurm")
    return ok("squeue", f"{sum(job.live for job in jobs)} of your jobs (and tasks of arrays) are queued or running")


def _accounting(profile: Profile) -> Finding:
    try:
        # A job that nobody has: only whether somebody answers matters.
        accounting(["1"], seconds=min(10.0, profile.cluster.command_seconds))
    except AccountingAbsentError as error:
        return warning(
            "accounting", str(error), "nothing has to be done; causes are told from squeue and what tasks leave behind"
        )
    return ok("accounting", "sacct answers")


def _arrays(known: Mapping[str, str], profile: Profile) -> Finding:
    size, wanted = array_limit(known), profile.cluster.max_array_size
    if size is not None and wanted is not None and wanted > size:
        remedy = f"set slurm.max_array_size to {size}, or leave it out"
        return problem("MaxArraySize", f"{size}, but the profile's max_array_size is {wanted}", remedy)
    return ok("MaxArraySize", f"{wanted or size or 'unknown'}; larger stages are submitted in several arrays")


def _kill_wait(known: Mapping[str, str], profile: Profile) -> Finding:
    text = known.get("KillWait", "").split(" ")[0]
    seconds = int(text) if text.isdigit() else None
    ahead = f"the time limit is announced {profile.cluster.signal_seconds} s ahead"
    if seconds is not None and seconds < _SHORT_KILL_WAIT:
        return warning(
            "KillWait",
            f"{seconds} s: so long does a job that is cancelled or preempted have to save; {ahead}",
            "nothing is lost but the work since the last checkpoint; ask for 30 s or more where preemption is frequent",
        )
    return ok("KillWait", f"{seconds or '?'} s to save on cancelling or preemption; {ahead}")
