"""Supervises one server process, and ends it with all its children when its last user has gone.

    python keeper.py FOLDER LOCK LOG COMMAND...

Run as a file by a plain interpreter; imports the standard library alone. Whoever uses servers, or keeps them running,
has a shared lock on ``LOCK``. The kernel releases it when that process ends, however it ends, and after the last one
the server goes: SIGTERM, and SIGKILL for what is left of its process group. ``FOLDER/pid`` has the server's process
group and the keeper's process, each with its start time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_GRACE_SECONDS = 15.0


def started(pid: int) -> str:
    """Start time of a process, which tells it from a later one of the same number; empty if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def main(folder: Path, lock: str, log: str, command: list[str]) -> None:
    """Start a server, and keep it."""
    # Slurm sends these to every process of a job, a terminal the last one; they are for the job to act on.
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with open(log, "ab") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    try:
        pids = (process.pid, os.getpid())
        (folder / "pid").write_text(" ".join(f"{pid} {started(pid)}" for pid in pids))
        users = open(lock, "a")  # noqa: SIM115  closed by the end of this process, so that no other gets it
        fcntl.flock(users, fcntl.LOCK_EX)
    finally:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(_GRACE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what the server left behind
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4], sys.argv[4:])
