"""Math-Verify behind a deadline that holds, from any thread.

Why not Math-Verify's own timeout: it is a signal, which works only in the
main thread and never inside one long C call (``9**9**9``). A process can be
killed.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

from hpcmaf.cores import usable_cores
from hpcmaf.errors import PlatformError

_WORKER = Path(__file__).with_name("worker.py")
# Importing sympy from a busy network file system can take this long; it is not
# part of any check's deadline, or verdicts would depend on the disk.
START_S = 300.0
MAX_WORKERS = min(8, usable_cores())


class DeadlineExceeded(Exception):
    """A check took longer than it was allowed."""


class Deadline:
    """Time left for checks; only what happens inside ``with deadline:`` is counted.

    Waiting for a worker to start or to become free is not: verdicts must not
    depend on the disk or on the neighbours.
    """

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds
        self._start = 0.0

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.left_s -= time.monotonic() - self._start


class _WorkerDied(Exception):
    pass


class _Worker:
    """One process and the two pipes to it; used by one thread at a time."""

    def __init__(self) -> None:
        # -P: the script's own folder must not shadow installed modules. No session of its own: a scheduler
        # that kills the process group gets the worker too.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        self.pid = self._process.pid
        self._pending = b""
        self._ready = False

    def wait_ready(self) -> None:
        if self._ready:
            return
        try:
            line = self._read_line(time.monotonic() + START_S)
        except (_WorkerDied, DeadlineExceeded) as error:
            self.kill()
            raise PlatformError(
                "the answer checker did not start: try `python -c 'import math_verify'` in this environment "
                "and reinstall hpcmaf if it fails"
            ) from error
        assert line == b"ready", line
        self._ready = True

    def check(self, a: str, b: str, deadline_s: float) -> bool:
        end = time.monotonic() + deadline_s
        request = json.dumps({"a": a, "b": b, "deadline_s": deadline_s}) + "\n"
        try:
            self._write(request.encode("ascii"), end)
        except OSError as error:
            raise _WorkerDied from error
        return json.loads(self._read_line(end)) is True

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.forget()

    def forget(self) -> None:
        """Close the pipes alone, as a forked child that must leave its parent's worker be."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _write(self, data: bytes, end: float) -> None:
        assert self._process.stdin is not None
        descriptor = self._process.stdin.fileno()
        while data:
            _await(descriptor, select.POLLOUT, end)
            data = data[os.write(descriptor, data[:4096]) :]

    def _read_line(self, end: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._pending:
            _await(descriptor, select.POLLIN, end)
            piece = os.read(descriptor, 1 << 16)
            if not piece:
                raise _WorkerDied
            self._pending += piece
        line, self._pending = self._pending.split(b"\n", 1)
        return line


def _await(descriptor: int, event: int, end: float) -> None:
    waiting = select.poll()  # not select(): it fails on descriptors above 1023
    waiting.register(descriptor, event)
    if not waiting.poll(max(0.0, end - time.monotonic()) * 1000):
        raise DeadlineExceeded


class Checker:
    """A few workers, started when first needed, shared by all threads."""

    def __init__(self, workers: int = MAX_WORKERS) -> None:
        self._idle: list[_Worker] = []
        self._slots = threading.Semaphore(workers)
        self._lock = threading.Lock()

    def check(self, a: str, b: str, deadline: Deadline) -> bool:
        """Whether Math-Verify finds ``a`` and ``b`` equal in either direction.

        Raises
        ------
        DeadlineExceeded
            The deadline has no time left, now or before a verdict.
        PlatformError
            The worker cannot start.
        """
        if deadline.left_s <= 0:
            raise DeadlineExceeded  # before a worker is started for nothing
        with self._slots:
            for _ in range(2):  # a worker that was killed from outside is replaced, once
                worker = self._take()
                try:
                    worker.wait_ready()
                    with deadline:
                        verdict = worker.check(a, b, deadline.left_s)
                except _WorkerDied:
                    worker.kill()
                    continue
                except BaseException:
                    worker.kill()
                    raise
                with self._lock:
                    self._idle.append(worker)
                return verdict
        return False

    def warm_up(self) -> None:
        """Start one worker now and wait until it can answer."""
        with self._slots:
            worker = self._take()
            worker.wait_ready()
            with self._lock:
                self._idle.append(worker)

    def pids(self) -> list[int]:
        """Process ids of the idle workers."""
        with self._lock:
            return [worker.pid for worker in self._idle]

    def close(self) -> None:
        """End all idle workers."""
        with self._lock:
            workers, self._idle = self._idle, []
        for worker in workers:
            worker.kill()

    def forget(self) -> None:
        """Drop the workers without ending them: they belong to the process this one was forked from."""
        for worker in self._idle:
            worker.forget()
        self._idle = []

    def _take(self) -> _Worker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive():
                    return worker
                worker.forget()
        return _Worker()


shared = Checker()


def _after_fork() -> None:
    global shared
    shared.forget()
    shared = Checker()  # fresh locks: the old ones may be held by threads that do not exist here


os.register_at_fork(after_in_child=_after_fork)
atexit.register(lambda: shared.close())
