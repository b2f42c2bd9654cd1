"""The job's side of the link: start an engine, hear from it, be rid of it."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing import Pipe
from typing import Any

from hpcmaf.engines.vllm_child import environment as vllm_environment
from hpcmaf.engines.vllm_child import signals_blocked
from hpcmaf.engines.vllm_options import EngineSpec

Hear = Callable[[tuple[Any, ...]], None]
_GRACE = 20.0


class ProcessLink:
    """An engine in a process of its own, which imports what it needs until it is told what to serve.

    Parameters
    ----------
    environment
        Added to the process's environment, e.g. ``CUDA_VISIBLE_DEVICES``.
    model
        Folder whose weights it should read into the page cache meanwhile.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, model: str | None = None) -> None:
        self._link, theirs = Pipe()
        command = [sys.executable, "-P", "-m", "hpcmaf.engines.vllm_process", str(theirs.fileno()), str(os.getpid())]
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        own = {**os.environ, **vllm_environment(), "PYTHONPATH": path, **(environment or {})}
        with signals_blocked():
            self.process = subprocess.Popen(
                [*command, *filter(None, [model])],
                pass_fds=[theirs.fileno()],
                env=own,
                stdin=subprocess.DEVNULL,
                stdout=2,
            )
        theirs.close()
        self._closing = False
        self._reader: threading.Thread | None = None

    def begin(self, spec: EngineSpec, hear: Hear) -> None:
        """Start the engine.

        Parameters
        ----------
        hear
            Called from a thread with each message, and with ``("failed",
            "crash", reason)`` if the process ends unasked.
        """
        self._reader = threading.Thread(target=self._read, args=(hear,), daemon=True)
        self._reader.start()
        self.send(spec)

    def send(self, message: Any) -> None:
        """Give the engine a message; a dead one is heard of by other ways."""
        try:
            self._link.send(message)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _read(self, hear: Hear) -> None:
        told = False
        while True:
            try:
                message = self._link.recv()
            except (EOFError, OSError):
                break
            except Exception as error:  # whatever cannot be unpickled
                message = ("failed", "crash", f"unreadable message ({error})")
            told = told or message[0] == "failed"
            hear(message)
        code = self.process.wait()
        if not told and not self._closing:
            hear(("failed", "crash", f"its process ended ({_ending(code)})"))

    def close(self) -> None:
        """End the process, politely first."""
        self._closing = True
        self.send(("stop",) if self._reader else None)
        try:
            self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self._reader:
            self._reader.join()
        self._link.close()

    def kill(self) -> None:
        """End the process at once."""
        self._closing = True
        self.process.kill()
        self.process.wait()
        if self._reader:
            self._reader.join()
        self._link.close()


class ThreadLink:
    """An engine in a thread of this process; it cannot be killed, only asked to stop."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        os.environ.update({**vllm_environment(), **(environment or {})})
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._hear: Hear | None = None
        self._thread: threading.Thread | None = None

    def begin(self, spec: EngineSpec, hear: Hear) -> None:
        """Start the engine; see ``ProcessLink``."""
        self._hear = hear
        # Signals are for the main thread, and workers are started from this one.
        with signals_blocked():
            self._thread = threading.Thread(target=self._serve, args=(spec,), daemon=True)
            self._thread.start()

    def _serve(self, spec: EngineSpec) -> None:
        from hpcmaf.engines.vllm_server import serve

        os.environ.setdefault("VLLM_CACHE_ROOT", spec.cache)
        serve(spec, self._receive, lambda message: self._hear and self._hear(message))
        release()

    def _receive(self, wait: bool) -> Any:
        try:
            return self._inbox.get(block=wait)
        except queue.Empty:
            return None

    def send(self, message: Any) -> None:
        """Give the engine a message."""
        self._inbox.put(message)

    def close(self) -> None:
        """Have the engine stop, and wait for it."""
        self._hear = None
        self.send(("stop",))
        if self._thread:
            self._thread.join(_GRACE)

    kill = close


def release() -> None:
    """Give back what vLLM holds process-wide, so that another engine can start in this process."""
    import gc

    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    gc.collect()
    cleanup_dist_env_and_memory()


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
