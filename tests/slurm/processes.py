"""Processes of a test cluster: none outlives the one that started it."""

from __future__ import annotations

import atexit
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.slurm import node

PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"
PACKAGES = "slurmctld slurmd slurm-client slurmdbd munge mariadb-server-core mariadb-client-core"
PROGRAMS = "slurmctld slurmd sbatch sacct munged slurmdbd mariadbd mariadb-install-db".split()
NAMESPACES = ["unshare", "--uts", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class ClusterError(RuntimeError):
    """The test cluster cannot be started or does not come to rest; the message ends with what its logs say."""


def program(name: str) -> str:
    """The path of an installed program, looked for where daemons lie too; ClusterError names its package."""
    found = shutil.which(name, path=PATH)
    if found is None:
        raise ClusterError(f"{name} is not installed: apt-get install -y --no-install-recommends {PACKAGES}")
    return found


def require() -> None:
    """Raise ClusterError unless every program of a cluster is installed, and a node can have its own namespaces."""
    for name in PROGRAMS:
        program(name)
    trial = [*NAMESPACES, "sh", "-c", "mount -t tmpfs tmpfs /dev/shm && hostname trial"]
    if subprocess.run(trial, check=False, capture_output=True, timeout=10, env={"PATH": PATH}).returncode != 0:
        raise ClusterError("the test cluster's nodes need namespaces: root, in a container that may make them")


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


class Ports:
    """A block of free TCP ports, kept from other clusters on this machine until closed or until this process ends.

    They lie below the range from which outgoing connections take theirs.
    """

    def __init__(self, count: int) -> None:
        for _ in range(200):
            first = random.SystemRandom().randrange(10_000, 32_000, 64)
            claim = socket.socket(socket.AF_UNIX)
            try:
                claim.bind(f"\0hpcmaf-test-cluster-{first}")
                for port in range(first, first + count):
                    with socket.socket() as probe:
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        probe.bind(("0.0.0.0", port))
            except OSError:
                claim.close()
                continue
            self.first, self._claim = first, claim
            return
        raise ClusterError(f"no {count} free ports in a row between 10000 and 32000")

    def close(self) -> None:
        """Give the block back."""
        self._claim.close()


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
        parent = os.getpid()

        def bind_to_parent() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.env,
                cwd="/",
                start_new_session=True,
                preexec_fn=bind_to_parent,  # noqa: PLW1509 - one system call, no locks
            )

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ClusterError(f"{self.command[0]} was never started")
        return self._process.pid

    def end(self, number: int = signal.SIGKILL, timeout: float = 10) -> None:
        """Send a signal and wait for the end."""
        if self.alive:
            self._process.send_signal(number)
            self._process.wait(timeout)

    def kill(self) -> None:
        """Kill it and wait for the end; nothing if it does not run."""
        self.end()


class Node(Daemon):
    """A node in its own namespaces, with this /etc/hosts: slurmd and whatever runs below it."""

    def __init__(self, name: str, hosts: Path, log: Path, env: dict[str, str]) -> None:
        first = [sys.executable, "-I", "-S", node.__file__, name, str(hosts), program("slurmd"), "-D", "-N", name]
        super().__init__([*NAMESPACES, *first], log, env)
        self.name = name

    def first_process(self) -> int | None:
        """The pid of the node's first process, None while there is none."""
        found = psutil.Process(self.pid).children() if self.alive else []
        return found[0].pid if found else None

    def slurmd(self) -> int | None:
        """The pid of its slurmd as seen from outside, None if it does not run."""
        first = self.first_process()
        try:
            for child in psutil.Process(first).children() if first else ():
                if child.name() == "slurmd" and child.status() != psutil.STATUS_ZOMBIE:
                    return child.pid
        except psutil.NoSuchProcess:
            pass
        return None

    def start(self) -> None:
        """Switch it on, or start slurmd again where only that was killed."""
        if not self.alive:
            super().start()
        elif self.slurmd() is None and (first := self.first_process()) is not None:
            os.kill(first, signal.SIGUSR1)
            wait_until(f"{self.name}: slurmd runs again", lambda: self.slurmd() is not None, 5)

    def kill(self) -> None:
        """Switch it off: everything on it is gone at once."""
        if (first := self.first_process()) is not None:
            # The namespace's init is reaped only after all else in it is dead, and unshare ends after that.
            os.kill(first, signal.SIGKILL)
            self._process.wait(10)
        super().kill()

    def kill_slurmd(self) -> None:
        """Kill slurmd alone; jobs and their slurmstepd go on."""
        if (pid := self.slurmd()) is not None:
            os.kill(pid, signal.SIGKILL)
            wait_until(f"{self.name}: slurmd is gone", lambda: self.slurmd() is None, 5)
