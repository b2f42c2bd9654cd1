"""A job's processes as seen from the one that starts them.

One process is started by itself, several by ``torch.distributed.run``. Either way they work off a list of jobs: a
folder of numbered files, which the launcher adds to as the jobs' turns come, and :mod:`hpcmaf.training.worker` reads.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Self

from hpcmaf.files.publish import write_text
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.failure import NAME as FAILURE
from hpcmaf.training.failure import Failure, ended, oom_kills, read
from hpcmaf.training.multinode import Heartbeat, NodeRank
from hpcmaf.training.stop import SIGNALS, StopFile, StopFlag

# Between looks at a job and its processes, and of those for their next job.
POLL_S = 0.05
# For processes to exit by themselves, once their jobs are done.
LEAVING_S = 60.0
# Once one has failed, the others' time to notice by themselves.
FAILED_S = 15.0
# In a job's work folder; the model is what a sweep of temporary files finds when all have been killed.
REPORT, MODEL = "report.json", ".model.tmp"

_PR_SET_PDEATHSIG = 1
# In the folder of a list.
_END = "end"
# Port 0 lets the rendezvous take a free one, so jobs on one machine never meet.
_STANDALONE = ("--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1")
# Of a job of one process; torchrun gives others theirs.
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": "0"}
# As ``torch.distributed.run`` sums up which of its processes failed first, and how.
_FIRST = re.compile(r"Root Cause \(first observed failure\).*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)", re.DOTALL)


def jobs(folder: Path) -> Iterator[Path]:
    """Work folders of a list's jobs in turn; waits for the next, until the list has ended or its writer is gone."""
    parent = os.getppid()
    for number in count(1):
        path = folder / f"{number:04d}"
        while not path.exists():
            if (folder / _END).exists() or not folder.exists() or os.getppid() != parent:
                return
            time.sleep(POLL_S)
        yield Path(path.read_text())


def log_of(work: Path, node: int) -> Path:
    """What a node's processes print, beside a job's work folder."""
    return work.parent / (f"finetune.node{node}.log" if node else "finetune.log")


class Workers:
    """Processes that work off a list of jobs; a context manager, after which there are none.

    Agents that share a machine share them: imports, process group and the weights of the base are the same for all. A
    job that fails or is stopped ends them, and the next one starts others; so does one that wants other processes. Of
    one machine only.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        # Of the first job, into which the processes print until they read of one.
        self._first_log = self._folder = Path()
        self._shape: tuple[object, ...] = ()
        self._jobs = 0
        self._oom_kills: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let them exit, or kill them; the models that they made are safe, however that goes."""
        if self._process is not None:
            with suppress(FileNotFoundError):
                (self._folder / _END).touch()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LEAVING_S)
            self.kill()

    def run(
        self,
        job: FinetuneJob,
        work: Path,
        stop: StopFlag,
        on_poll: Callable[[], object] = lambda: None,
        heartbeat: Heartbeat | None = None,
    ) -> tuple[dict[str, Any] | None, Failure | None]:
        """Have a job done, by the processes that did the one before it if there are any.

        A job that is stopped or fails leaves no process behind.

        Parameters
        ----------
        work
            Its folder, which has ``job.json`` and takes the processes' report, failure and model.
        stop
            Asks it to end at its next step.
        on_poll
            Called at every look, and once more after the end.
        heartbeat
            This machine's, if there are several.

        Returns
        -------
        tuple
            What the first process reported, if it came so far; why the processes did not end as they should.
        """
        node, report, failure = heartbeat and heartbeat.node, None, None
        try:
            code = self._wait(self._assign(job, work, node), work, stop, on_poll, heartbeat)
            with suppress(FileNotFoundError):
                report = json.loads((work / REPORT).read_text())
            # Another node's may not be seen here yet.
            expected = report or StopFile(work).requested or (node is not None and node.rank > 0)
            failure = None if code == 0 and expected else self._failure(code, work, node)
        finally:
            if report is None or failure is not None or "stopped_at" in report:
                self.kill()
        return report, failure

    def kill(self) -> None:
        """Kill what is left of their session."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):  # all have exited
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)

    def _assign(self, job: FinetuneJob, work: Path, node: NodeRank | None) -> subprocess.Popen[bytes]:
        """Add a job to the list of the processes there are, or of others."""
        shape = (job.processes, job.threads, job.device)
        if self._process is None or self._process.poll() is not None or shape != self._shape:
            self.__exit__()
            self._folder, self._shape = Path(tempfile.mkdtemp(prefix="jobs-", dir=work.parent)).resolve(), shape
            self._jobs, self._oom_kills, self._first_log = 0, oom_kills(), log_of(work, node.rank if node else 0)
        self._jobs += 1
        write_text(self._folder / f"{self._jobs:04d}", str(work.resolve()))
        if node is not None:
            # On several machines they exit after every job.
            (self._folder / _END).touch()
        if self._process is None:
            self._process = _start(job, self._folder, self._first_log, [] if node is None else node.rendezvous(work))
        return self._process

    def _wait(
        self,
        process: subprocess.Popen[bytes],
        work: Path,
        stop: StopFlag,
        on_poll: Callable[[], object],
        heartbeat: Heartbeat | None,
    ) -> int | None:
        """0, or the processes' exit code; ``None``: the job failed elsewhere or does not stop, so waiting is no use."""
        failed, request = math.inf, StopFile(work)
        while True:
            code = process.poll()
            # On several nodes a process ends with the last, as others may still need it.
            if heartbeat is None and (work / REPORT).exists():
                code = 0
            on_poll()
            if code is not None:
                return code
            if stop.requested and not request.requested:
                request.request()
            if heartbeat is not None and (lost := heartbeat.lost()) is not None:
                lost.record(work)
                return None
            if failed == math.inf and (work / FAILURE).exists():
                failed = time.monotonic()
            if stop.overdue or time.monotonic() - failed > FAILED_S:
                return None
            time.sleep(POLL_S)

    def _failure(self, code: int | None, work: Path, node: NodeRank | None) -> Failure:
        """Why a job did not end well."""
        log = _tail(log_of(work, node.rank if node else 0))
        where = "" if node is None else f" on {node.address}"
        cause = _FIRST.search(_tail(self._first_log))
        if cause is not None and int(cause[2]) < 0:
            # Nobody kills itself, so a killed process is the reason for what the others report.
            ended(f"process {cause[1]}{where}", int(cause[2]), self._oom_kills, log).record(work)
        return read(work) or ended(f"its process{where}", code, self._oom_kills, log)


def _tail(log: Path, size: int = 1 << 16) -> str:
    """The end of a log; empty where it cannot be read."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - size))
        return file.read().decode("utf-8", errors="replace")
    return ""


def _start(job: FinetuneJob, folder: Path, log: Path, rendezvous: list[str]) -> subprocess.Popen[bytes]:
    """Start the processes in a session of their own."""
    worker = ["-m", "hpcmaf.training.worker", str(folder)]
    command = [*worker, str(os.getpid())]
    if not job.alone:
        elastic = [
            f"--nproc-per-node={job.processes}",
            "--max-restarts=0",
            "--monitor-interval=0.1",
            f"--log-dir={folder / 'elastic'}",
            *(rendezvous or _STANDALONE),
        ]
        run = ["-m", "torch.distributed.run", *elastic, *worker]
        command = ["-m", "hpcmaf.training.launch", str(os.getpid()), *run]
    # A scheduler signals all processes of a job. These never notice: blocked
    # is what they inherit, and it is the launcher that passes on a request.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with log.open("ab") as sink:
            streams = {"stdin": subprocess.DEVNULL, "stdout": sink, "stderr": subprocess.STDOUT}
            command = [sys.executable, "-P", *command]
            return subprocess.Popen(command, env=_environment(job), start_new_session=True, **streams)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _environment(job: FinetuneJob) -> dict[str, str]:
    # Left over from a job this one was started in, they would misplace it.
    others = {*ALONE, "MASTER_ADDR", "MASTER_PORT"}
    environment = {name: value for name, value in os.environ.items() if name not in others}
    # Passes of ever other lengths would leave memory in pieces that fit none of them.
    environment.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    # Without the folder that this was called in, where modules of a user's may have names of others.
    environment |= {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": str(job.threads), "TOKENIZERS_PARALLELISM": "false"}
    environment |= ALONE if job.alone else {}
    return environment | ({"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""} if job.device == "cpu" else {})


def die_with_parent(parent: int) -> None:
    """Be killed when the process that started this one is, however that goes (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)


def main(parent: str, *command: str) -> None:
    """Become ``torch.distributed.run``, which ends with its parent."""
    die_with_parent(int(parent))
    os.execv(sys.executable, [sys.executable, "-P", *command])


if __name__ == "__main__":
    main(*sys.argv[1:])
