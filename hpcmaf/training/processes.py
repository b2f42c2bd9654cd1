"""A job's processes as seen from the one that started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from hpcmaf.bytecode import keep_bytecode
from hpcmaf.training.failure import NAME as FAILURE
from hpcmaf.training.failure import Failure, ended, read
from hpcmaf.training.nodes import NodePlace, Pulse
from hpcmaf.training.readahead import read_ahead
from hpcmaf.training.spec import FinetuneJob
from hpcmaf.training.stopping import SIGNALS, StopFlag, ask

# Between looks at the processes and their progress.
POLL_S = 0.2
# Between looks for a report.
_LOOK_S = 0.02
# For processes to leave by themselves, once their job is done.
LEAVING_S = 60.0
# Once one has failed, the others' time to notice by themselves.
FAILED_S = 15.0


@contextmanager
def torchrun(
    job: FinetuneJob, work: Path, output: Path, steps: Path, log: Path, node: NodePlace | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """torchrun and its workers, in a session of their own; none of them outlives the block.

    Parameters
    ----------
    work, output, steps
        See :func:`hpcmaf.training.worker.run`.
    log
        Takes all that they print.
    node
        This machine's place, if there are several.
    """
    arguments = [str(work.resolve()), str(output.resolve()), str(steps.resolve()), str(time.time())]
    arguments += [node.to_json()] if node is not None else []
    with _started(job, arguments, log) as process:
        yield process


@contextmanager
def serving(job: FinetuneJob, inbox: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The same for a series of jobs, of which ``job`` is the first; see :mod:`hpcmaf.training.orders`."""
    with _started(job, ["--series", str(inbox.resolve())], log) as process:
        yield process


@contextmanager
def _started(job: FinetuneJob, arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    # Without the folder that this was called in, where modules of a user's may have names of others.
    command = [sys.executable, "-P", "-m", "hpcmaf.training.torchrun", str(os.getpid()), *arguments]
    # A scheduler signals all processes of a job, and these would kill one that
    # has not yet begun to heed them; blocked, they wait for that.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with log.open("ab") as sink:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=_environment(job),
                start_new_session=True,
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    read_ahead(job)
    try:
        yield process
    finally:
        if process.poll() != 0:
            try:
                # Whatever is left of its session; without a survivor there is none.
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


class Ends(Protocol):
    """What can be waited for."""

    def poll(self) -> int | None:
        """Exit code, or ``None`` before the end."""
        ...

    def wait(self, timeout: float) -> int:
        """Wait for the end, and raise ``subprocess.TimeoutExpired`` if it does not come."""
        ...


class Handed:
    """A job, to whoever waits for it as for a process: it ends with its report, and those who did it may go on."""

    def __init__(self, process: subprocess.Popen[bytes], report: Path) -> None:
        self._process, self._report = process, report

    @property
    def stopped(self) -> bool:
        """Whether it ended before its last step, as it was asked to."""
        return "stopped_at" in json.loads(self._report.read_text())

    def poll(self) -> int | None:
        """0 once the job is done; the processes' exit code when they have ended without that."""
        if self._report.exists():
            return 0
        code = self._process.poll()
        # It may have appeared in between.
        return 0 if self._report.exists() else code

    def wait(self, timeout: float) -> int:
        """As a process's."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a job", timeout)
            time.sleep(_LOOK_S)
        return code


def leave(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for torchrun to end after its job; its model is safe, however that goes."""
    try:
        code = process.wait(LEAVING_S)
    except subprocess.TimeoutExpired:
        code = None  # about to be killed
    if code != 0:
        how = f"did not end within {LEAVING_S:g} s" if code is None else f"ended with exit code {code}"
        print(f"finetuning: done, but its processes {how}; see {log}", flush=True)


def wait(
    process: Ends,
    work: Path,
    stop: StopFlag,
    listen: Callable[[], object] = lambda: None,
    pulse: Pulse | None = None,
) -> int | None:
    """Wait for torchrun to end.

    Parameters
    ----------
    listen
        Called at every look, and once more after the end.

    Returns
    -------
    int or None
        Its exit code; ``None`` where waiting for it has no more sense, because
        the job has failed elsewhere or does not stop when asked.
    """
    told, failed = False, None
    while True:
        code = process.poll()
        listen()
        if code is not None:
            return code
        if stop.requested and not told:
            ask(work)
            told = True
        if stop.overdue:
            return None
        lost = pulse.lost() if pulse is not None else None
        if lost is not None:
            Failure("lost", lost).record(work)
            return None
        if failed is None and (work / FAILURE).exists():
            failed = time.monotonic()
        if failed is not None and time.monotonic() - failed > FAILED_S:
            return None
        try:
            process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            pass


def failure(work: Path, log: Path, code: int | None, oom_kills_before: int | None) -> Failure:
    """Why torchrun did not end well."""
    known = read(work)
    if known is not None:
        return known
    return ended("its process", code, oom_kills_before, log_tail(log))


def log_tail(log: Path, size: int = 1 << 16) -> str:
    """The end of a log; empty where it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - size))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _environment(job: FinetuneJob) -> dict[str, str]:
    environment = dict(os.environ)
    # Set for the whole tree before any of them imports torch or deepspeed.
    environment["OMP_NUM_THREADS"] = str(job.threads)
    environment["TOKENIZERS_PARALLELISM"] = "false"
    # Passes of ever other lengths would leave memory in pieces that fit none of them.
    environment.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    # Asking CUDA itself whether it is there would spoil it for forked workers.
    environment["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    if job.device == "cpu":
        environment["DS_ACCELERATOR"] = "cpu"
        environment["CUDA_VISIBLE_DEVICES"] = ""
    # Left over from a job this one was started in, they would misplace it.
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    keep_bytecode(environment)
    return environment
