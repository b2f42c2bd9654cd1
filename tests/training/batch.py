"""Run many finetuning jobs after importing everything once (a test's torchrun).

Each job has its own processes, which differ from real ones in nothing but that
they are forked: the imports, ten seconds of each real job, are shared.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from hpcmaf.training import (
    finetune,  # noqa: F401 (imports all that jobs need)
    worker,
)
from hpcmaf.training.checkpoint import checkpoint_step
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.launch import ALONE


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


def begin(place: Path) -> int:
    """Fork one job; returns its process, whose code is 0 if all went well."""
    (place / "jobs").mkdir()
    (place / "jobs" / "0001").write_text(str(place / "work"))
    (place / "jobs" / "end").touch()
    job, parent = FinetuneJob.read(place / "work" / "job.json"), os.getpid()
    pid = os.fork()
    if pid == 0:
        os.environ |= ALONE
        os._exit(worker.main(str(place / "jobs"), str(parent)) if job.alone else several(place, job.processes, parent))
    return pid


def several(place: Path, processes: int, parent: int) -> int:
    """The job's processes, which meet at a free port; where one fails, the others do not stay."""
    worker.die_with_parent(parent)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    children = []
    for rank in range(processes):
        own = ALONE | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        pid = os.fork()
        if pid == 0:
            os.environ |= {name: str(value) for name, value in own.items()}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            os._exit(worker.main(str(place / "jobs")))
        children.append(pid)
    code = 0
    while children:
        pid, status = os.wait()
        children.remove(pid)
        if status and not code:
            code = 1
            time.sleep(1.0)
            for other in children:
                os.kill(other, signal.SIGKILL)
    return code


def main(folder: Path) -> None:
    """Run the ``job.json`` of each name in ``folder/order.json``, in order; exit codes into ``folder/codes.json``."""
    codes = {}
    for name in json.loads((folder / "order.json").read_text()):
        codes[name] = os.waitstatus_to_exitcode(ended(begin(folder / name), folder / name))
    (folder / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
