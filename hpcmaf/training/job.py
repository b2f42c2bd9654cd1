"""Run one finetuning job: start its processes, wait, publish.

The way of a job, read straight down: ``jobs/finetune`` makes it of recipe and
profile; :func:`run_finetune` here starts processes for it
(:mod:`hpcmaf.training.launch`), each of which is a
:mod:`hpcmaf.training.worker` and calls :mod:`hpcmaf.training.finetune` for
every job of its list. That loads data and model, puts them under DeepSpeed
(:mod:`hpcmaf.training.engine`), and hands batches and an objective
(:mod:`hpcmaf.training.sft`, :mod:`~hpcmaf.training.dpo`,
:mod:`~hpcmaf.training.kto`, :mod:`~hpcmaf.training.grpo`) to
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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

from hpcmaf.errors import HpcmafError, OutOfMemory, StopRequested, TrainingError
from hpcmaf.files.publish import atomic_path, write_json
from hpcmaf.training.checkpoint import checkpoint_step
from hpcmaf.training.config import FinetuneJob, FinetuneReport
from hpcmaf.training.failure import Failure, read
from hpcmaf.training.launch import MODEL, POLL_S, Workers, log_of
from hpcmaf.training.multinode import MEET, Heartbeat, NodeRank
from hpcmaf.training.stop import StopFile, StopFlag

# For the other nodes to record why they ended.
PEERS_S = 15.0


def run_finetune(
    job: FinetuneJob,
    logs: Path,
    progress: Callable[[dict[str, Any]], None] | None = None,
    *,
    stop: StopFlag | None = None,
    node: NodeRank | None = None,
    workers: Workers | None = None,
) -> FinetuneReport:
    """Finetune a model and publish its folder.

    The output is a PEFT adapter (LoRA) or a whole checkpoint with tokenizer (full), as safetensors, with the report as
    ``training.json``. It appears whole or not at all.

    Parameters
    ----------
    job
        With ``job.checkpoints`` it resumes where a job that was killed or stopped has left a checkpoint; deleting them,
        once the output is no longer in doubt, is the caller's business.
    logs
        Folder for ``finetune.log`` (all processes' output) and ``progress.jsonl`` (one line per optimiser step).
    progress
        Called with each line of ``progress.jsonl`` as it appears.
    stop
        Asks the job to end at its next step, with a checkpoint. A scheduler's
        signals are for this process alone; the job's own processes block them.
    node
        This node's rank, of a job on several; it has to be node 0. On the
        others :func:`join_finetune` runs with ``node.work(logs)``.
    workers
        Processes that do several jobs, one after another. The result is the same.

    Raises
    ------
    StopRequested
        It was requested to stop, and did.
    OutOfMemory, TrainingError
        It failed; the error's ``kind`` says whether another attempt may succeed.
    """
    began, stop = time.time(), stop or StopFlag()
    logs.mkdir(parents=True, exist_ok=True)
    steps = logs / "progress.jsonl"
    steps.write_bytes(b"")
    with ExitStack() as leaving:
        work = leaving.enter_context(_work_folder(logs, node))
        if workers is None or node is not None:
            # Its processes exit once the model is published.
            workers = leaving.enter_context(Workers())
        lines = leaving.enter_context(steps.open("rb"))
        heartbeat = Heartbeat(work, node) if node is not None else None
        job.write(work / "job.json")
        counts, failure = workers.run(job, work, stop, lambda: _report(lines, progress), heartbeat)
        # They still read what lies in the work folder.
        silent = heartbeat.wait_for_others(PEERS_S) if heartbeat is not None else []
        if failure is not None and failure.kind == "lost" and silent:
            failure = replace(failure, message=f"node {', '.join(map(str, silent))} is gone ({failure.message})")
        if (error := _unfinished(job, work, counts, failure, stop)) is not None:
            raise error
        report = FinetuneReport.of(counts or {}, began)
        with atomic_path(Path(job.output)) as temporary:
            if report.steps == 0 and job.start is not None:
                # Nothing was learnt: the agent keeps the very same model.
                shutil.copytree(job.start, temporary)
            else:
                shutil.move(work / MODEL, temporary)
            write_json(temporary / "training.json", asdict(report) | {"schema": "hpcmaf-training/1"})
    return report


def join_finetune(work: Path, node: NodeRank, *, stop: StopFlag | None = None) -> None:
    """Let this node work for a job that node 0 runs by :func:`run_finetune`.

    Parameters
    ----------
    work
        The job's work folder, ``node.work(logs)`` of node 0; need not exist
        yet. This node's log is ``finetune.nodeN.log`` beside it.
    node, stop
        This node's rank; asks the whole job to stop, on all nodes.

    Raises
    ------
    StopRequested, OutOfMemory, TrainingError
        It was stopped, or failed, here or elsewhere, or node 0 is lost.
    """
    work, stop = Path(work), stop or StopFlag()
    end = time.monotonic() + node.joining_s
    while not (work / MEET).exists():
        if stop.requested:
            raise StopRequested(f"node {node.rank}: stopped on request, before the job had begun")
        if time.monotonic() > end:
            raise TrainingError(
                f"{work}: node 0 has not begun the job within {node.joining_s:g} s; see its log", kind="lost"
            )
        time.sleep(POLL_S)
    job, heartbeat = FinetuneJob.read(work / "job.json"), Heartbeat(work, node)
    with Workers() as workers:
        report, failure = workers.run(job, work, stop, heartbeat=heartbeat)
        if failure is not None and failure.kind != "lost" and read(work) is None:
            failure = replace(failure, message=f"node {node.rank} ({node.address}): {failure.message}")
            failure.record(work)
        error = _unfinished(job, work, report, failure, stop, node)
        heartbeat.leave()
    if error is not None:
        raise error


@contextmanager
def _work_folder(logs: Path, node: NodeRank | None) -> Iterator[Path]:
    """Beside the logs: what a kill leaves of it is found there, not in /tmp."""
    if node is None:
        work = Path(tempfile.mkdtemp(prefix="work-", dir=logs))
    else:
        work = node.work(logs)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
    try:
        yield work
    finally:
        # Files that another node still has open may stay for a while on NFS.
        shutil.rmtree(work, ignore_errors=True)


def _report(lines: BinaryIO, progress: Callable[[dict[str, Any]], None] | None) -> None:
    """Pass on what has been logged since the last call; a line that is being written waits for the next one."""
    for line in iter(lines.readline, b""):
        if not line.endswith(b"\n"):
            lines.seek(-len(line), os.SEEK_CUR)
            return
        if progress is not None:
            progress(json.loads(line))


def _unfinished(
    job: FinetuneJob,
    work: Path,
    report: dict[str, Any] | None,
    failure: Failure | None,
    stop: StopFlag,
    node: NodeRank | None = None,
) -> HpcmafError | None:
    """Why a job ended early, if it did."""
    name, log = Path(job.output).name, log_of(work, node.rank if node else 0)
    requested = stop.requested or StopFile(work).requested
    if failure is None:
        if not (requested if report is None else "stopped_at" in report):
            return None
        at = f" at step {report['stopped_at']} of {report['steps']}" if report else ""
        return StopRequested(f"finetuning {name}: stopped on request{at}; {_resumes(job)}")
    if requested and (stop.overdue or failure.kind == "lost"):
        # Some processes may have been killed before all had agreed to stop.
        return StopRequested(f"finetuning {name}: killed on request; {_resumes(job)}")
    if failure.kind == "memory":
        limit = "micro_batch_size" if job.micro_batch_size > 1 else "max_length"
        remedy = f"(now {job.micro_batch_size})" if job.micro_batch_size > 1 else "or use gradient_checkpointing"
        return OutOfMemory(f"finetuning {name}: {failure.message}; lower training.{limit} {remedy}; see {log}")
    message = f"finetuning {name} failed: {failure.message}; see {log}"
    return TrainingError(message, kind=failure.kind, errno=failure.errno, node=failure.node)


def _resumes(job: FinetuneJob) -> str:
    if job.checkpoints is None:
        return "the same command begins it again"
    with suppress(OSError):  # not readable now
        return f"the same command resumes from step {checkpoint_step(Path(job.checkpoints))}"
    return "the same command resumes from its last checkpoint"
