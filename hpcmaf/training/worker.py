"""One process of a finetuning job, or of several, one after another.

Started by :mod:`hpcmaf.training.launch`, by itself or under torchrun::

    torchrun --nproc-per-node P -m hpcmaf.training.worker FOLDER

with a folder of :func:`hpcmaf.training.launch.jobs`.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
import traceback
from pathlib import Path

from hpcmaf.files.publish import write_json
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.failure import report
from hpcmaf.training.launch import REPORT, die_with_parent, jobs, log_of
from hpcmaf.training.stop import StopFile


def main(folder: str, parent: str | None = None) -> int:
    """Do this process's part of all jobs of a list, until there are no more or one is stopped; returns an exit code."""
    die_with_parent(os.getppid() if parent is None else int(parent))
    # What is imported is no garbage; the first job turns collection on when all is in place.
    gc.disable()
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    work = base = None
    try:
        for work in jobs(Path(folder)):
            began, stop = time.time(), StopFile(work)
            _print_into(log_of(work, int(os.environ["GROUP_RANK"])))
            job = FinetuneJob.read(work / "job.json")
            if job.alone and stop.requested:
                return 0  # several would first have to agree
            # Ten seconds, in which a request to stop may come.
            from hpcmaf.training.finetune import finetune
            from hpcmaf.training.process import Process

            process = Process.of(job)
            made, base = finetune(job, process, work, began, stop, base)
            if process.first:
                # Its appearance ends the job, for the launcher.
                write_json(work / REPORT, made)
            if "stopped_at" in made:
                break
        _leave()
    except Exception as error:
        traceback.print_exc()
        if work is not None:
            report(error, work)
        return 1
    return 0


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def _print_into(log: Path) -> None:
    with log.open("ab") as sink:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(sink.fileno(), stream.fileno())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
