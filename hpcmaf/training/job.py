"""Run one finetuning job: start its processes, wait, publish.

The way of a job, read straight down: ``stages/finetune`` makes it of recipe
and profile; :func:`run_finetune` here starts processes for it
(:mod:`hpcmaf.training.launch`), each of which is a
:mod:`hpcmaf.training.worker` and calls :mod:`hpcmaf.training.finetune` for
every job of its list. That loads data and model, puts them under DeepSpeed
(:mod:`hpcmaf.training.engine`), and hands batches and an objective
(:mod:`hpcmaf.training.sft`, :mod:`hpcmaf.training.dpo`) to
:mod:`hpcmaf.training.loop`. What they write, this side publishes; it imports
nothing heavy.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcmaf.errors import ConfigError, HpcmafError, OutOfMemory, StopRequested, TrainingError
from hpcmaf.files.publish import atomic_path, write_json
from hpcmaf.training.checkpoint import checkpoint_step
from hpcmaf.training.failure import Failure, read
from hpcmaf.training.launch import POLL_S, Workers
from hpcmaf.training.nodes import NodePlace, Pulse
from hpcmaf.training.report import FinetuneReport
from hpcmaf.training.spec import FinetuneJob, LoraSettings
from hpcmaf.training.stopping import StopFlag, asked

__all__ = [
    "FinetuneJob",
    "FinetuneReport",
    "LoraSettings",
    "NodePlace",
    "StopFlag",
    "Workers",
    "checkpoint_step",
    "join_finetune",
    "run_finetune",
]

# For the other nodes to tell why they ended.
PEERS_S = 15.0


def run_finetune(
    job: FinetuneJob,
    logs: Path,
    progress: Callable[[dict[str, Any]], None] | None = None,
    *,
    stop: StopFlag | None = None,
    place: NodePlace | None = None,
    workers: Workers | None = None,
) -> FinetuneReport:
    """Finetune a model and publish its folder.

    The output is a PEFT adapter (LoRA) or a whole checkpoint with tokenizer
    (full), as safetensors, with the report as ``training.json``. It appears
    whole or not at all.

    Parameters
    ----------
    job
        With ``job.checkpoints`` it resumes where a job that was killed or
        stopped has left a checkpoint; deleting them, once the output is no
        longer in doubt, is the caller's business.
    logs
        Folder for ``finetune.log`` (all processes' output) and
        ``progress.jsonl`` (one line per optimiser step).
    progress
        Called with each line of ``progress.jsonl`` as it appears.
    stop
        Asks the job to end at its next step, with a checkpoint. SIGUSR2 and
        SIGTERM sent to the job's own processes do the same.
    place
        This node's, of a job on several; it has to be node 0. On the others
        :func:`join_finetune` runs with ``place.work(logs)``.
    workers
        Processes that do several jobs, one after another. The result is the same.

    Raises
    ------
    StopRequested
        It was asked to stop, and did.
    OutOfMemory, TrainingError
        It failed; the error's ``kind`` says what another attempt is worth.
    """
    started = time.monotonic()
    _check_place(job, place)
    stop = stop or StopFlag()
    output, logs = Path(job.output), Path(logs)
    logs.mkdir(parents=True, exist_ok=True)
    log, steps = logs / "finetune.log", logs / "progress.jsonl"
    steps.write_bytes(b"")
    with _workplace(logs, place) as work, ExitStack() as leaving:
        if workers is None or place is not None:
            # Its processes exit once the model is in place.
            workers = leaving.enter_context(Workers(lone=True))
        with atomic_path(output) as temporary:
            temporary.mkdir()
            pulse = Pulse(work, place) if place is not None else None
            # Its appearance starts the other nodes.
            job.write(work / "job.json")
            with workers.running(job, work, temporary, steps, log, place) as running, steps.open("rb") as lines:
                code = running.wait(stop, _listener(lines, progress), pulse)
                # They still read what lies in the work folder.
                silent = pulse.wait_for_others(PEERS_S) if pulse is not None else []
            if code != 0 or not running.succeeded:
                counts = running.report if code == 0 else None
                raise _unfinished(job, work, log, code, counts, stop, lambda: _named(running.failure(code), silent))
            report = FinetuneReport.of(running.report or {}, wall=time.monotonic() - started)
            if report.steps == 0 and job.start is not None:
                # Nothing was learnt: the agent keeps the very same model.
                shutil.copytree(job.start, temporary, dirs_exist_ok=True)
            write_json(temporary / "training.json", report.to_json())
    return report


def join_finetune(work: Path, place: NodePlace, *, stop: StopFlag | None = None) -> None:
    """Let this node work for a job that node 0 runs by :func:`run_finetune`.

    Parameters
    ----------
    work
        The job's work folder, ``place.work(logs)`` of node 0; need not exist
        yet. This node's log is ``finetune.nodeN.log`` beside it.
    place, stop
        This node's place; asks the whole job to stop, on all nodes.

    Raises
    ------
    StopRequested, OutOfMemory, TrainingError
        It was stopped, or failed, here or elsewhere, or node 0 is gone.
    """
    work, stop = Path(work), stop or StopFlag()
    end = time.monotonic() + place.joining_s
    while not (work / "job.json").exists():
        if stop.requested:
            raise StopRequested(f"node {place.rank}: stopped as asked, before the job had begun")
        if time.monotonic() > end:
            raise TrainingError(
                f"{work}: node 0 has not begun the job within {place.joining_s:g} s; see its log", kind="lost"
            )
        time.sleep(POLL_S)
    job = FinetuneJob.read(work / "job.json")
    _check_place(job, place)
    log = work.parent / f"finetune.node{place.rank}.log"
    pulse = Pulse(work, place)
    with Workers(lone=True) as workers:
        with workers.running(job, work, work, Path(os.devnull), log, place) as running:
            code = running.wait(stop, pulse=pulse)
        counts = running.report if code == 0 else None
        error = None
        if code != 0 or (counts is None and asked(work)) or (counts is not None and "stopped_at" in counts):
            error = _unfinished(
                job, work, log, code, counts, stop, lambda: _own(work, place, running.failure(code))
            )
        pulse.leave()
    if error is not None:
        raise error


def _named(why: Failure, silent: list[int]) -> Failure:
    """A loss of others, with the nodes that left without a word."""
    if why.kind != "lost" or not silent:
        return why
    return replace(why, message=f"node {', '.join(map(str, silent))} is gone ({why.message})")


def _own(work: Path, place: NodePlace, why: Failure) -> Failure:
    """A failure that node 0 is told of, if it knows none yet."""
    if read(work) is None and why.kind != "lost":
        why = replace(why, message=f"node {place.rank} ({place.local_address}): {why.message}")
        why.record(work)
    return why


def _check_place(job: FinetuneJob, place: NodePlace | None) -> None:
    if (place.nodes if place is not None else 1) != job.nodes:
        raise ConfigError(f"finetuning: a job for {job.nodes} nodes, started on {place.nodes if place else 1}")


@contextmanager
def _workplace(logs: Path, place: NodePlace | None) -> Iterator[Path]:
    """Beside the logs: what a kill leaves of it is found there, not in /tmp."""
    if place is None:
        work = Path(tempfile.mkdtemp(prefix="work-", dir=logs))
    else:
        work = place.work(logs)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
    try:
        yield work
    finally:
        # Files that another node still holds open may stay for a while on NFS.
        shutil.rmtree(work, ignore_errors=True)


def _listener(lines: Any, progress: Callable[[dict[str, Any]], None] | None) -> Callable[[], None]:
    torn = b""

    def listen() -> None:
        nonlocal torn
        *whole, torn = (torn + lines.read()).split(b"\n")
        for line in whole:
            if progress is not None:
                progress(json.loads(line))

    return listen


def _unfinished(
    job: FinetuneJob,
    work: Path,
    log: Path,
    code: int | None,
    counts: dict[str, Any] | None,
    stop: StopFlag,
    why: Callable[[], Failure],
) -> HpcmafError:
    name = Path(job.output).name
    if counts is not None:
        done = f"at step {counts['stopped_at']} of {counts['steps']}"
        return StopRequested(f"finetuning {name}: stopped as asked {done}; {_remains(job, counts['stopped_at'])}")
    asked_to = stop.requested or asked(work)
    if asked_to and stop.overdue:
        late = f"killed, for it had not stopped {stop.grace_s:g} s after it was asked to"
        return StopRequested(f"finetuning {name}: {late}; {_remains(job)}")
    if asked_to and code == 0:
        return StopRequested(f"finetuning {name}: stopped as asked before its first step; {_remains(job)}")
    known = why()
    if asked_to and known.kind == "lost":
        # Some processes were killed before all had agreed to stop.
        return StopRequested(f"finetuning {name}: broken off, as asked; {_remains(job)}")
    if known.kind == "memory":
        remedy = "or use gradient_checkpointing" if job.micro_batch_size == 1 else f"(now {job.micro_batch_size})"
        limit = "max_length" if job.micro_batch_size == 1 else "micro_batch_size"
        return OutOfMemory(f"finetuning {name}: {known.message}; lower training.{limit} {remedy}; see {log}")
    said = f"finetuning {name} failed: {known.message}; see {log}"
    return TrainingError(said, kind=known.kind, errno=known.errno, node=known.node)


def _remains(job: FinetuneJob, step: int | None = None) -> str:
    if job.checkpoints is None:
        return "it keeps no checkpoints, so the same command begins it again"
    try:
        kept = checkpoint_step(Path(job.checkpoints)) if step is None else step
    except OSError as error:
        return f"the same command resumes from its last checkpoint (not readable now: {error.strerror})"
    return f"the same command goes on from step {kept}"
