"""Processes that neither outlive the job nor die of signals meant for it."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

# Slurm sends these to every process of a job, a terminal sends the last; what
# they mean is for the job's own process to decide.
FOR_THE_JOB = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT}
_PR_SET_PDEATHSIG = 1


def environment() -> dict[str, str]:
    """What vLLM reads from the environment, where the user has not set it."""
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # All workers of an engine are on one host. Left to find an address of
        # their own, they hang for ever where there is no network.
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        # Several tasks share a node; each has as many threads as its profile says.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    missing = {name: value for name, value in defaults.items() if name not in os.environ}
    return {**missing, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block the job's signals in this thread: processes started meanwhile inherit that for good.

    A handler set by the child itself would leave it bare while Python starts.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_JOB)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when the thread that started it ends, however it ends.

    Parameters
    ----------
    parent
        The parent's process id; one that is gone already ends this process.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)
