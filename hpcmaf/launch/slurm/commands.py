"""Slurm's client commands: each call with a deadline, each answer parsed.

A controller that is down makes every client block for about nine seconds and then fail; one that is busy can take
minutes. No call here waits longer than it is told to.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hpcmaf.errors import SlurmError, failure_kind, one_line
from hpcmaf.launch.slurm.refusals import ControllerAbsentError, RefusedError, error_class, plain

# Blanks separate fields in none of these; a job's name is hpcmaf's own.
SQUEUE = ("squeue", "--me", "--states=all", "--noheader", "--array", "-o", "%F|%K|%T|%r|%N|%j|%S|%e")
_SCRUBBED = re.compile(r"(SLURM|SBATCH|SRUN|PMI|PMIX|SALLOC|SUBMITIT|SQUEUE|SACCT|SACCTMGR|SCANCEL|SINFO|SCONTROL)_?.*")
_KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"}

# Between two questions to a controller that does not answer.
_PAUSE_SECONDS = 5.0

# What Slurm gives as the signal of a step that its memory limit ended.
_OOM_SIGNAL = 125

PENDING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
ENDED = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED LAUNCH_FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED TIMEOUT".split()
)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Job:
    """One job, or one task of a job array, as Slurm sees it.

    Attributes
    ----------
    id, index
        Of the array and within it; ``index`` is ``None`` for a single job.
    state
        Such as ``RUNNING``; in full, as squeue and sacct write it.
    nodes
        Slurm's own notation, such as ``node[1-2]``; empty while pending.
    start, end
        Times as Slurm's clients write them here, or expects them.
    """

    id: str
    index: int | None
    name: str
    state: str
    reason: str = ""
    nodes: str = ""
    start: str = ""
    end: str = ""

    @property
    def full_id(self) -> str:
        """What Slurm's commands call it, such as ``4711_3``."""
        return self.id if self.index is None else f"{self.id}_{self.index}"

    @property
    def live(self) -> bool:
        """Whether it will run, or runs; in a state that this does not know, it does."""
        return self.state not in ENDED

    @property
    def held(self) -> bool:
        """Whether Slurm holds it back since its launch failed, until somebody releases it."""
        reason = plain(self.reason)
        return self.state in PENDING and ("requeuedheld" in reason or "holdmaxrequeue" in reason)

    @property
    def running(self) -> bool:
        """Whether it has a node."""
        return self.live and self.state not in PENDING


def clean_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without what an enclosing job put there.

    A gate submits from inside a job: its ``SLURM_*`` would become the limits and the geometry of the jobs it submits.
    ``SLURM_CONF`` says which cluster this is, and stays.
    """
    return {name: value for name, value in environment.items() if name in _KEPT or not _SCRUBBED.fullmatch(name)}


def call(command: Sequence[str], *, seconds: float) -> str:
    """Run one client command and return what it prints.

    Raises
    ------
    ControllerAbsentError
        It did not answer in ``seconds``, or said that the controller did not.
    LaterError, RefusedError
        It may be heard later, or never.
    SlurmError
        It failed otherwise; the line has its own last words.
    """
    # Unlimited: squeue otherwise cuts long lists of array indices.
    environment = clean_environment() | {"SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "standard", "LC_ALL": "C"}
    name = command[0]
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        why = "not found" if isinstance(error, FileNotFoundError) else error.strerror
        kind = RefusedError if failure_kind(error) == "refused" else ControllerAbsentError
        raise kind(f"{name}: {why}; run this where Slurm's commands are, or use --profile local") from error
    except subprocess.TimeoutExpired as error:
        raise ControllerAbsentError(f"{name}: no answer in {seconds:g} s; try again when Slurm answers") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        # A client dies of SIGPIPE when a busy controller hangs up on it.
        kind = ControllerAbsentError if done.returncode < 0 else error_class(said)
        if issubclass(kind, RefusedError) and os.path.basename(name) != "sbatch":
            kind = SlurmError  # such as a job that has ended meanwhile
        raise kind(f"{name}: {said.removeprefix(f'{name}: ').removeprefix('error: ')[:400]}")
    return done.stdout


def queue(*, seconds: float) -> list[Job]:
    """All of this user's jobs that the controller still knows: one squeue.

    Ended jobs are among them until Slurm forgets them (MinJobAge, 300 s by default), so that causes are known without
    accounting.
    """
    rows = _rows(call(SQUEUE, seconds=seconds), SQUEUE[-1].count("|"))
    return [
        Job(id, int(index) if index.isdigit() else None, name, state, reason, nodes, start, end)
        for id, index, state, reason, nodes, name, start, end in rows
    ]


def _rows(text: str, bars: int) -> Iterator[list[str]]:
    """Fields of lines; somebody's job with a bar in its name is none of ours."""
    return (line.split("|") for line in text.splitlines() if line.count("|") == bars)


def accounting(ids: Sequence[str], *, seconds: float) -> list[Job]:
    """What the accounting database, if there is one, knows of some jobs: one sacct."""
    fields = "JobID,JobName,State,DerivedExitCode,NodeList,Start,End"
    text = call(["sacct", "-X", "-n", "-P", "-D", "-o", fields, "-j", ",".join(ids)], seconds=seconds)
    jobs = []
    for full_id, name, states, code, nodes, start, end in _rows(text, fields.count(",")):
        id, _, index = full_id.partition("_")
        if index and not index.isdigit():
            continue  # tasks that never left an array's pending range
        state = states.partition(" ")[0]  # "CANCELLED by 1000"
        if state == "FAILED" and code.endswith(f":{_OOM_SIGNAL}"):
            state = "OUT_OF_MEMORY"  # of the srun step, which the job's own state does not tell
        nodes = "" if nodes == "None assigned" else nodes
        jobs.append(Job(id, int(index) if index else None, name, state, nodes=nodes, start=start, end=end))
    return jobs


def configuration(*, seconds: float) -> dict[str, str]:
    """``scontrol show config``: Slurm's own names and values."""
    pairs = (line.partition("=") for line in call(["scontrol", "show", "config"], seconds=seconds).splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def cancel(ids: Sequence[str], *, seconds: float, pending_only: bool = False) -> None:
    """Cancel jobs; those that have ended by themselves are no error."""
    if ids:
        state = ["--state=PENDING"] if pending_only else []
        call(["scancel", "--quiet", *state, *ids], seconds=seconds)


def control(*words: str, seconds: float) -> None:
    """Change a job: ``release`` it, ``requeue`` it, ``update`` it."""
    call(["scontrol", *words], seconds=seconds)


def patiently(action: Callable[..., Result], *, seconds: float, patience: float) -> Result:
    """What a call returns, which is repeated while the controller does not answer."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return action(seconds=seconds)
        except ControllerAbsentError:
            if time.monotonic() + _PAUSE_SECONDS > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)


def sbatch(script: Path, name: str, *, seconds: float, patience: float) -> str:
    """Call sbatch until Slurm has the job, and has it once; returns its id.

    sbatch may have been heard although its answer was not: before it is called again, the queue is asked for the name.

    Raises
    ------
    SlurmError
        Refused, or no answer within ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        heard = True
        try:
            answer = call(["sbatch", "--parsable", str(script)], seconds=seconds)
            if (told := job_id(answer)) is not None:
                return told
            silent = ControllerAbsentError(f"sbatch: no job's id in its answer: {one_line(answer)[-300:] or 'nothing'}")
        except ControllerAbsentError as error:
            silent, heard = error, False
        except SlurmError as error:
            if type(error) is not SlurmError:
                raise
            silent = error  # a wrapper may fail behind an sbatch that did not
        time.sleep(min(_PAUSE_SECONDS, seconds))
        jobs = patiently(queue, seconds=seconds, patience=patience)
        if known := sorted({job.id for job in jobs if job.name == name}, key=int):
            cancel(known[1:], seconds=seconds)
            return known[0]
        if heard or time.monotonic() > deadline:  # twice would be two jobs
            raise silent


def job_id(answer: str) -> str | None:
    """The id in what sbatch printed, among the lines that plugins and wrappers add."""
    lines = [line.strip() for line in answer.splitlines()]
    if alone := [line for line in lines if re.fullmatch(r"[0-9]+(;\S+)?", line)]:
        return alone[-1].partition(";")[0]
    told = re.findall(r"Submitted batch job ([0-9]+)", answer)
    return told[-1] if told else None


def requeue_this_job(begin: float = 0.0) -> None:
    """Put the job that this process belongs to back into the queue, and end it; returns only where that fails.

    Parameters
    ----------
    begin
        Seconds after which it may start again.
    """
    job = os.environ["SLURM_JOB_ID"]
    try:
        control("requeue", job, seconds=60.0)
        print(f"back into the queue, to begin in {begin / 60:g} minutes", flush=True)
        if begin:
            control("update", f"jobid={job}", f"StartTime=now+{round(begin)}", seconds=60.0)
    except SlurmError as error:
        print(one_line(str(error)), file=sys.stderr, flush=True)
    else:
        sys.exit(-1)
