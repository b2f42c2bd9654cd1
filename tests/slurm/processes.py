"""Processes of a test cluster: none outlives the one that started it."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"
PACKAGES = "slurmctld slurmd slurm-client slurmdbd munge mariadb-server-core mariadb-client-core"
NAMESPACES = ["unshare", "--uts", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
# The first process of a node, as the init of its own namespaces: it gives the node a host name, a hosts file and a /dev/shm
# of its own, keeps slurmd running unless there is a file that forbids it, and reaps what the node's jobs leave.
INIT = """\
hostname "$0" && mount --bind "$1" /etc/hosts && mount -t tmpfs tmpfs /dev/shm || exit
while :; do [ -e "$2" ] || "$3" -D -N "$0"; sleep 0.1; done
"""


class ClusterError(RuntimeError):
    """The test cluster cannot be started or does not come to rest; the message ends with what its logs say."""


def program(name: str) -> str:
    """The path of an installed program, looked for where daemons lie too; ClusterError names its package."""
    found = shutil.which(name, path=PATH)
    if found is None:
        raise ClusterError(f"{name} is not installed: apt-get install -y --no-install-recommends {PACKAGES}")
    return found


def wait_until(what: str, ready: Callable[[], bool], timeout: float, pause: float = 0.02) -> None:
    """Poll `ready` until it holds; ClusterError says `what` did not happen in `timeout` seconds."""
    end = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > end:
            raise ClusterError(f"not within {timeout:g} s: {what}")
        time.sleep(pause)


def answers(port: int) -> bool:
    """Whether something listens on a TCP port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def claim_ports(count: int) -> socket.socket:
    """A socket on a port that so many free ones follow: while it is open, other clusters pass all of them over.

    They lie below the range from which outgoing connections take theirs.
    """
    for _ in range(200):
        first, claim = random.SystemRandom().randrange(10_000, 32_000, 64), socket.socket()
        try:
            claim.bind(("0.0.0.0", first))
            if not any(answers(port) for port in range(first + 1, first + 1 + count)):
                return claim
        except OSError:  # another cluster's
            pass
        claim.close()
    raise ClusterError(f"no {count} free ports in a row between 10000 and 32000")


class Daemon:
    """A program in the background, its output in a log file, killed by the kernel when the thread that started it ends."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str]) -> None:
        self.command, self.log, self.env = command, log, env
        self._process: subprocess.Popen | None = None
        atexit.register(self.kill)

    def start(self) -> None:
        """Start it unless it runs."""
        if self.alive:
            return
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.env,
                cwd="/",
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Kill it, or with SIGTERM let it save its state first, and wait for the end; nothing if it does not run."""
        if self.alive:
            self._process.send_signal(number)
            self._process.wait(10)


class Node(Daemon):
    """A node in its own namespaces, with this /etc/hosts: slurmd and whatever runs below it."""

    def __init__(self, name: str, hosts: Path, log: Path, env: dict[str, str]) -> None:
        self.name, self.without_slurmd = name, log.with_name(f"{name}.without-slurmd")
        arguments = [name, str(hosts), str(self.without_slurmd), program("slurmd")]
        super().__init__([*NAMESPACES, "sh", "-c", INIT, *arguments], log, env)

    def first_process(self) -> psutil.Process | None:
        """The init of its namespaces, None while there is none."""
        found = psutil.Process(self._process.pid).children() if self.alive else []
        return found[0] if found else None

    def slurmd(self) -> psutil.Process | None:
        """Its slurmd, None if that does not run."""
        first = self.first_process()
        try:
            for child in first.children() if first else ():
                if child.name() == "slurmd" and child.status() != psutil.STATUS_ZOMBIE:
                    return child
        except psutil.NoSuchProcess:
            pass
        return None

    def inside(self, *command: object) -> None:
        """Run a command that sees what the node sees of the file system."""
        namespaces = ["nsenter", "-t", str(self.first_process().pid), "-m", "-p"]
        subprocess.run([*namespaces, *map(str, command)], check=True)

    def start(self) -> None:
        """Switch it on, or start slurmd again where only that was killed."""
        self.without_slurmd.unlink(missing_ok=True)
        super().start()
        wait_until(f"{self.name}: slurmd runs", lambda: self.slurmd() is not None, 5)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Switch it off: slurmd, slurmstepd and every task on it are gone at once."""
        if (first := self.first_process()) is not None:
            # The namespace's init is reaped only after all else in it is dead, and unshare ends after that.
            first.kill()
            self._process.wait(10)
        super().kill(number)

    def kill_slurmd(self) -> None:
        """Kill slurmd alone; jobs and their slurmstepd go on."""
        self.without_slurmd.touch()
        if (slurmd := self.slurmd()) is not None:
            slurmd.kill()
            wait_until(f"{self.name}: slurmd is gone", lambda: self.slurmd() is None, 5)
