"""Run many finetuning jobs after importing everything once (a test's torchrun).

Each job still runs under its own elastic agent with its own workers; only the
imports, ten seconds of each real job, are shared by forking.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from hpcmaf.training import torchrun, worker
from hpcmaf.training.checkpoint import checkpoint_step
from hpcmaf.training.spec import FinetuneJob


def ended(pid: int, place: Path) -> int:
    """Wait for a job; one with a ``kill`` file gets SIGKILL once its checkpoint is so far as the file says."""
    if (place / "kill").exists():
        least = int((place / "kill").read_text())
        root = Path(FinetuneJob.read(place / "work" / "job.json").checkpoints or "")
        while checkpoint_step(root) < least:
            if (done := os.waitpid(pid, os.WNOHANG))[0]:
                return done[1]
            time.sleep(0.002)
        # Its processes have to notice by themselves.
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def main(folder: Path) -> None:
    """Run the ``job.json`` of each name in ``folder/order.json``, in order; exit codes into ``folder/codes.json``."""
    names = json.loads((folder / "order.json").read_text())
    for name in names:
        worker.preload(FinetuneJob.read(folder / name / "work" / "job.json"))
    codes = {}
    for name in names:
        place, parent = folder / name, os.getpid()
        pid = os.fork()
        if pid == 0:
            log = os.open(place / "log", os.O_CREAT | os.O_WRONLY)
            os.dup2(log, 1)
            os.dup2(log, 2)
            paths = (place / "work", place / "out", place / "steps.jsonl")
            os._exit(torchrun.main([str(parent), *map(str, paths), str(time.time())]))
        codes[name] = os.waitstatus_to_exitcode(ended(pid, place))
    (folder / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
