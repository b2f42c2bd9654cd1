"""A real Slurm of several nodes on this one machine, for tests to use and to break.

Each node has its own namespaces: its own host name, processes and /dev/shm, for which the tests have to be root. Nothing
needs systemd, cgroups or a network.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.slurm import configuration
from tests.slurm.client import Client
from tests.slurm.processes import (
    PATH,
    ClusterError,
    Daemon,
    Node,
    Ports,
    answers,
    program,
    require,
    wait_until,
)

# Unix sockets have paths of 107 characters at most, and slurmstepd's end in "/spool/node1/node1_12345678.4294967291".
LONGEST_ROOT = 50


class Cluster(Client):
    """A Slurm cluster that this process owns; `start` makes one, `stop` or the end of a ``with`` block removes it.

    Attributes
    ----------
    home : Path
        Its files; logs in ``home/log``.
    names : list of str
        ``node1``, ``node2`` and so on.
    """

    def __init__(self, layout: configuration.Layout, ports: Ports) -> None:
        super().__init__(layout.home)
        self.layout, self.names = layout, layout.names
        self._ports, self._limited = ports, False
        self.nodes = {
            name: Node(name, self.home / "etc/hosts", self._log(name), self._daemon_env()) for name in self.names
        }
        self._munged = self._daemon(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={self.home}/etc/munge.key",
            f"--socket={layout.munge_socket}",
            f"--pid-file={self.home}/run/munged.pid",
            f"--log-file={self.home}/log/munged.log",
            f"--seed-file={self.home}/run/munge.seed",
        )
        self._controller = self._daemon("slurmctld", "-D")
        self._database = self._daemon("mariadbd", *self._mariadb_options())
        self._accounting = self._daemon("slurmdbd", "-D")

    @classmethod
    def start(
        cls,
        root: Path,
        nodes: int = 4,
        **conf_overrides: object,
    ) -> Cluster:
        """Start a cluster and wait until all its nodes are idle.

        Parameters
        ----------
        root : Path
            Its files go into a new folder in here, or in /tmp where unix sockets would not fit.
        nodes : int
            How many; each claims 8 CPUs, 8000 MB, and 4 GPUs, fakes of type h100.
        **conf_overrides
            Settings of slurm.conf; None removes one.

        Raises
        ------
        ClusterError
            If a program is missing or the cluster does not come up.
        """
        require()
        root.mkdir(parents=True, exist_ok=True)
        fits = len(str(root.resolve())) <= LONGEST_ROOT
        home = Path(tempfile.mkdtemp(prefix="maf", dir=root.resolve() if fits else "/tmp"))
        home.chmod(0o755)
        ports = Ports(nodes + 2)
        layout = configuration.Layout(home, nodes, ports.first)
        configuration.write(layout, conf_overrides)
        cluster = cls(layout, ports)
        try:
            cluster._bring_up()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- what goes wrong

    def kill_node(self, name: str) -> None:
        """A node crashes: slurmd, slurmstepd and every task on it are gone at once."""
        self.nodes[name].kill()

    def kill_slurmd_only(self, name: str) -> None:
        """slurmd dies while the tasks of its node live on."""
        self.nodes[name].kill_slurmd()

    def start_node(self, name: str) -> None:
        """Switch a crashed node on again, or start its slurmd where only that was killed."""
        self.nodes[name].start()

    def down(self, name: str, reason: str) -> None:
        """An operator takes a node out of service at once; its jobs are requeued."""
        self.client("scontrol", "update", f"nodename={name}", "state=down", f"reason={reason}")

    def resume(self, name: str) -> None:
        """An operator puts a node into service again."""
        self.client("scontrol", "update", f"nodename={name}", "state=resume")

    def kill_controller(self, number: int = signal.SIGKILL) -> None:
        """slurmctld dies; SIGTERM lets it save its state first."""
        self._controller.end(number)

    def start_controller(self) -> None:
        """Start slurmctld, which takes up what it had saved, and wait until it answers."""
        self._controller.start()
        self._comes_up("slurmctld", self._controller, lambda: answers(self.layout.port))
        self.client("scontrol", "ping")

    def stop_munge(self) -> None:
        """munged ends: no client is believed, no daemon answers."""
        self._munged.end(signal.SIGTERM)

    def start_munge(self) -> None:
        """Start munged."""
        self._munged.start()

    def stop_accounting(self) -> None:
        """slurmdbd ends: sacct fails, jobs go on."""
        self._accounting.end(signal.SIGTERM)

    def start_accounting(self) -> None:
        """Start slurmdbd and wait until it answers."""
        self._accounting.start()
        self._comes_up("slurmdbd", self._accounting, lambda: answers(self.layout.port + 1))

    def prolog_fails(self, node: str, fails: bool = True) -> None:
        """The prolog of a node fails, or does so no longer."""
        mark = self.home / f"fails.{node}"
        mark.touch() if fails else mark.unlink(missing_ok=True)

    def most_jobs(self, count: int) -> None:
        """The accounting's limit on the jobs that one may have in the queue; -1 is none."""
        self.client("sacctmgr", "-i", "modify", "user", configuration.USER, "set", f"maxsubmitjobs={count}")
        self._limited = count != -1
        time.sleep(1)  # until the controller has heard

    # --- back to order

    def cancel_all(self, timeout: float = 40) -> None:
        """Cancel every job, also those that running ones submit meanwhile, and wait until none is left."""
        end = time.monotonic() + timeout
        while self.client("squeue", "-h").strip():
            self.client("scancel", "--state=PENDING", f"--user={configuration.USER}")
            # Killed rather than asked: whoever ignores TERM, as submitit does, would hold up the next test.
            self.client("scancel", "--signal=KILL", "--full", f"--user={configuration.USER}")
            self.client("scancel", f"--user={configuration.USER}")
            if time.monotonic() > end:
                raise ClusterError(f"jobs left after scancel:\n{self.client('squeue')}\n{self.log_tails()}")
            time.sleep(0.1)

    def heal(self) -> None:
        """Make it a healthy idle cluster again, whatever was done to it."""
        self._munged.start()
        self.start_accounting()
        if not self._controller.alive:
            self.start_controller()
        for name, cluster_node in self.nodes.items():
            cluster_node.start()
            self.prolog_fails(name, False)
        if self._limited:
            self.most_jobs(-1)
        try:
            self.cancel_all(15)
        except ClusterError:
            # After a crash of the controller a node may hold a job that nobody can end any more.
            for cluster_node in self.nodes.values():
                cluster_node.kill()
                cluster_node.start()
            self.cancel_all()
        for name, state in self.node_states().items():
            if state.startswith(("down", "drain")):
                self.resume(name)
        self.wait_idle()

    def stop(self) -> None:
        """End every process of the cluster and remove its files."""
        for daemon in [*self.nodes.values(), self._controller, self._accounting, self._database, self._munged]:
            daemon.kill()
        self._ports.close()
        shutil.rmtree(self.home, ignore_errors=True)

    # --- how it starts

    def _log(self, name: str) -> Path:
        return self.home / f"log/{name}.out"

    def _daemon_env(self) -> dict[str, str]:
        # Jobs get what sbatch exports; nothing of the tests' environment may reach them through slurmd.
        return {
            "PATH": PATH,
            "SLURM_CONF": str(self.home / "etc/slurm.conf"),
            "MYSQL_UNIX_PORT": str(self.layout.database_socket),
        }

    def _daemon(self, name: str, *arguments: str) -> Daemon:
        return Daemon([program(name), *arguments], self._log(name), self._daemon_env())

    def _comes_up(self, name: str, daemon: Daemon, ready: Callable[[], bool]) -> None:
        def settled() -> bool:
            return not daemon.alive or ready()

        wait_until(f"{name} answers", settled, 30)
        if not daemon.alive:
            raise ClusterError(f"{name} ended while it started\n{self.log_tails()}")

    def _mariadb_options(self) -> list[str]:
        home = self.home
        return [
            "--no-defaults",
            f"--user={configuration.USER}",
            f"--datadir={home}/mysql",
            f"--tmpdir={home}/tmp",
            f"--socket={self.layout.database_socket}",
            f"--pid-file={home}/run/mysql.pid",
            f"--log-error={home}/log/mysql.log",
            "--skip-networking",
            "--skip-grant-tables",
            "--skip-name-resolve",
            "--performance-schema=OFF",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=8M",
            "--innodb-lock-wait-timeout=900",
            # The data live as long as the tests: no write has to survive this machine.
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--max-connections=30",
        ]

    def _bring_up(self) -> None:
        self._munged.start()
        # Two servers that start in the same moment name their temporary tables alike.
        temporary = self.home / "tmp"
        temporary.mkdir(exist_ok=True)
        made = subprocess.run(
            check=False,
            args=[
                program("mariadb-install-db"),
                "--no-defaults",
                f"--user={configuration.USER}",
                f"--datadir={self.home}/mysql",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
                "--innodb-log-file-size=8M",
                "--innodb-flush-method=nosync",
            ],
            env=self._daemon_env() | {"TMPDIR": str(temporary)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        if made.returncode != 0:
            raise ClusterError(f"mariadb-install-db ended with {made.returncode}:\n{made.stdout}{made.stderr}")
        self._database.start()
        self._comes_up("mariadbd", self._database, self.layout.database_socket.exists)
        self._comes_up("munged", self._munged, self.layout.munge_socket.exists)
        self.start_accounting()
        for cluster_node in self.nodes.values():
            cluster_node.start()
        self.start_controller()
        self.wait_idle()
