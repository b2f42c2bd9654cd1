"""The first process of a test node: it names the node, starts slurmd and reaps what the node's jobs leave.

Runs alone, without the package, as the init of its own namespaces: ``python -I -S node.py NAME HOSTS SLURMD ARGUMENT...``.
The node gets a host name, a hosts file and a /dev/shm of its own. USR1 starts slurmd again when it is gone.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys


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
    awaited = {signal.SIGCHLD, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    socket.sethostname(name)
    subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
    running, asked = None, signal.SIGUSR1
    while True:
        if running in reap():
            running = None
        if asked == signal.SIGUSR1 and running is None:
            running = os.posix_spawn(slurmd[0], slurmd, os.environ, setsigmask=[])
        asked = signal.sigwait(awaited)


if __name__ == "__main__":
    main(*sys.argv[1:])
