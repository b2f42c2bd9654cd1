"""Keeps one server process, and ends it with everything it started once nobody uses it any more.

    python keeper.py FOLDER LOG COMMAND...

Run as a file by a plain interpreter; imports the standard library alone.
Whoever uses the server holds a connection to ``FOLDER/keeper.sock``. The kernel
closes it when that process ends, however it ends, and with the last one the
server goes: SIGTERM, and SIGKILL for what is left of its process group. A
client writes letters: ``u`` uses the server, ``r`` keeps it running between
users, ``q`` ends it unless somebody uses it, ``n`` asks for the number of users
(one byte). ``FOLDER/pid`` has the process group and its start time.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

# A starter that dies before it connects leaves a server without users.
_FIRST_USER_SECONDS = 20.0
_GRACE_SECONDS = 15.0


def keep(listener: socket.socket, server: int) -> None:
    """Return when there is nothing left to keep.

    Parameters
    ----------
    server
        The server's pidfd.
    """
    selector, clients = selectors.DefaultSelector(), dict[socket.socket, str]()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(server, selectors.EVENT_READ)
    deadline = time.monotonic() + _FIRST_USER_SECONDS
    while clients or time.monotonic() < deadline:
        for key, _ in selector.select(1.0):
            one = key.fileobj
            if one == server:
                return
            if one is listener:
                client, _ = listener.accept()
                clients[client], deadline = "", 0.0
                selector.register(client, selectors.EVENT_READ)
                continue
            assert isinstance(one, socket.socket)
            letters = ""
            with suppress(OSError):
                letters = one.recv(64).decode("ascii", "replace")
                clients[one] += letters
                if "n" in letters:
                    one.send(bytes([min(255, sum("u" in known for known in clients.values()))]))
            if not letters:
                selector.unregister(one)
                del clients[one]
                one.close()
            if "q" in letters and not any("u" in known for known in clients.values()):
                return


def started(pid: int) -> str:
    """Start time of a process, which tells it from a later one of the same number; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def main() -> None:
    """Keep the server that the command line names."""
    folder, log, command = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    # Slurm sends these to every process of a job, a terminal the last one; they are for the job to act on.
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with open(log, "ab") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        (folder / "pid").write_text(f"{process.pid} {started(process.pid)}")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "keeper.sock"))
            listener.listen(128)
            keep(listener, os.pidfd_open(process.pid))
    finally:
        (folder / "keeper.sock").unlink(missing_ok=True)  # nobody may begin to use it now
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(_GRACE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what the server left behind
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
