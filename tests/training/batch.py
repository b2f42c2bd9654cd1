"""Run many finetuning jobs after importing everything once (a test's torchrun).

Each job still runs under its own elastic agent with its own workers; only the
imports, ten seconds of each real job, are shared by forking.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from hpcmaf.training import torchrun, worker
from hpcmaf.training.spec import FinetuneJob


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
        codes[name] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    (folder / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
