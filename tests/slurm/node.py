"""The first process of a test node: it starts slurmd and reaps what the node's jobs leave.

Runs alone, without the package: ``python -I -S node.py NAME HOSTS SLURMD ARGUMENT...``. With a hosts file it expects to be the
init of its own namespaces and gives the node a name and a /dev/shm of its own; with ``-`` it is an ordinary process that
adopts its node's orphans. USR1 starts slurmd again when it is gone, TERM ends the node and everything on it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36


def children() -> dict[int, list[int]]:
    """Which processes each process of this machine has as children, by pid."""
    families: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            families.setdefault(parent, []).append(int(entry))
    return families


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, parents before their children."""
    families, found = children(), [pid]
    for parent in found:
        found += families.get(parent, [])
    return found[1:]


def kill_below(pid: int) -> None:
    """Kill whatever runs below `pid`, also what is started meanwhile; give up on what cannot die after five seconds."""
    end = time.monotonic() + 5
    while (victims := descendants(pid)) and time.monotonic() < end:
        for victim in victims:
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                pass
        reap()
        time.sleep(0.01)


def reap() -> set[int]:
    """Collect children that have ended; returns their pids."""
    ended = set()
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.add(pid)


def main(name: str, hosts: str, *slurmd: str) -> None:
    awaited = {signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    if hosts != "-":
        socket.sethostname(name)
        subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
    else:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    running = None
    asked: int = signal.SIGUSR1
    while asked != signal.SIGTERM:
        if running in reap():
            running = None
        if asked == signal.SIGUSR1 and running is None:
            running = os.posix_spawn(slurmd[0], slurmd, os.environ, setsigmask=[])
        asked = signal.sigwait(awaited)
    if hosts == "-":
        kill_below(os.getpid())


if __name__ == "__main__":
    main(*sys.argv[1:])
