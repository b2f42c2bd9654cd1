"""A real Slurm of several nodes on this one machine, for tests to use and to break.

Each node has its own namespaces: its own host name, processes and /dev/shm, for which the tests have to be root. Nothing
needs systemd, cgroups or a network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.slurm import configuration
from tests.slurm.processes import PATH, ClusterError, Daemon, Node, answers, claim_ports, program, wait_until

REPOSITORY = Path(__file__).parents[2]
# Of this machine's own Slurm, if it has one: nothing of that may reach a test.
FOREIGN = ("SLURM", "SBATCH", "SQUEUE", "SINFO", "SACCT", "SCANCEL", "PMI")
SQUEUE_FIELDS = {
    "id": "%A",
    "array_job": "%F",
    "array_task": "%K",
    "state": "%T",
    "reason": "%r",
    "nodes": "%N",
    "name": "%j",
}
# Unix sockets have paths of 107 characters at most, and slurmstepd's end in "/spool/node1/node1_12345678.4294967291".
LONGEST_ROOT = 50
MARIADB = ("--no-defaults", "--skip-name-resolve", "--innodb-log-file-size=8M", "--innodb-flush-method=nosync")


class Cluster:
    """A Slurm cluster that this process owns; `start` makes one for a ``with`` block.

    Four nodes, each of which claims 8 CPUs, 48,000 MB, and 4 GPUs, fakes of type h100. Its files are in ``home``.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.names = home, [f"node{number}" for number in range(1, 5)]
        self._ports, self._limited = claim_ports(len(self.names) + 2), False
        self._port = self._ports.getsockname()[1] + 1
        configuration.write(home, self.names, self._port)
        # Jobs get what sbatch exports; nothing of the tests' environment may reach them through slurmd.
        self._env = {
            "PATH": PATH,
            "SLURM_CONF": str(home / "etc/slurm.conf"),
            "MYSQL_UNIX_PORT": str(home / "run/mysql.sock"),
            # Two database servers that start in the same moment name their temporary tables alike.
            "TMPDIR": str(home / "tmp"),
        }
        hosts, log = home / "etc/hosts", home / "log"
        self.nodes = {name: Node(name, hosts, log / name, self._env) for name in self.names}
        self.munge = self._daemon(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={home}/etc/munge.key",
            f"--socket={home}/run/munge.socket",
            f"--pid-file={home}/run/munged.pid",
            f"--log-file={log}/munged.log",
            f"--seed-file={home}/run/munge.seed",
        )
        self.controller = self._daemon("slurmctld", "-D")
        self._database = self._daemon(
            "mariadbd",
            *MARIADB,
            f"--user={configuration.USER}",
            f"--datadir={home}/mysql",
            f"--socket={home}/run/mysql.sock",
            f"--pid-file={home}/run/mysql.pid",
            "--skip-networking",
            "--skip-grant-tables",
            "--performance-schema=OFF",
            "--innodb-buffer-pool-size=32M",
            "--innodb-lock-wait-timeout=900",
            # The data live as long as the tests: no write has to survive this machine.
            "--innodb-flush-log-at-trx-commit=0",
            "--max-connections=30",
        )
        self.accounting = self._daemon("slurmdbd", "-D")
        self._daemons = (self.controller, self.accounting, self._database, self.munge)

    @classmethod
    @contextmanager
    def start(cls, root: Path) -> Iterator[Cluster]:
        """A cluster whose nodes are all idle, in a new folder of ``root``; at the end all of it is gone."""
        root.mkdir(parents=True, exist_ok=True)
        fits = len(str(root.resolve())) <= LONGEST_ROOT
        home = Path(tempfile.mkdtemp(prefix="maf", dir=root.resolve() if fits else "/tmp"))
        home.chmod(0o755)
        cluster = cls(home)
        try:
            cluster._bring_up()
            yield cluster
        finally:
            for daemon in (*cluster.nodes.values(), *cluster._daemons):
                daemon.kill()
            cluster._ports.close()
            shutil.rmtree(home, ignore_errors=True)

    def _bring_up(self) -> None:
        self.munge.start()
        install = [program("mariadb-install-db"), *MARIADB, f"--user={configuration.USER}", "--skip-test-db"]
        install += [f"--datadir={self.home}/mysql", "--auth-root-authentication-method=normal"]
        made = subprocess.run(install, check=False, env=self._env, capture_output=True, text=True, timeout=60)
        if made.returncode != 0:
            raise ClusterError(f"mariadb-install-db ended with {made.returncode}:\n{made.stdout}{made.stderr}")
        self._start(self._database, (self.home / "run/mysql.sock").exists)
        self._start(self.munge, (self.home / "run/munge.socket").exists)
        self.start_accounting()
        for node in self.nodes.values():
            node.start()
        self.start_controller()
        self.wait_idle()

    # --- daemons

    def _daemon(self, name: str, *arguments: str) -> Daemon:
        return Daemon([program(name), *arguments], self.home / "log" / name, self._env)

    def _start(self, daemon: Daemon, ready: Callable[[], bool]) -> None:
        daemon.start()
        wait_until(f"{daemon.command[0]} answers", lambda: not daemon.alive or ready(), 30)
        if not daemon.alive:
            raise ClusterError(f"{daemon.command[0]} ended while it started\n{self.log_tails()}")

    def start_controller(self) -> None:
        """Start slurmctld, which takes up what it had saved, and wait until it answers."""
        self._start(self.controller, lambda: answers(self._port))
        self.client("scontrol", "ping")

    def wait_saved(self) -> None:
        """Wait until slurmctld has saved what it knows by now; whoever kills it earlier takes its memory."""
        now, state = time.time(), self.home / "state/job_state"
        # It saves what has changed, and may have done so a moment ago.
        self.client("scancel", self.submit("true", "--hold"))
        wait_until("slurmctld saved its state", lambda: state.exists() and state.stat().st_mtime > now, 20)

    def start_accounting(self) -> None:
        """Start slurmdbd and wait until it answers."""
        self._start(self.accounting, lambda: answers(self._port + 1))

    def log_tails(self, lines: int = 12) -> str:
        """The last lines of each log of the cluster."""
        tails = []
        for path in sorted((self.home / "log").iterdir()):
            tails += [f"--- {path.name}", *path.read_text(errors="replace").splitlines()[-lines:]]
        return "\n".join(tails)

    # --- what users and operators do

    @property
    def settings(self) -> dict[str, str]:
        """What a process has to have in its environment for its jobs to run here and to find the tests' own work."""
        return {"SLURM_CONF": self._env["SLURM_CONF"], "PATH": PATH, "PYTHONPATH": str(REPOSITORY)}

    @property
    def env(self) -> dict[str, str]:
        """This process's environment with nothing of another Slurm in it, and with this one's settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return kept | self.settings

    def client(self, *words: object, timeout: float = 20) -> str:
        """Standard output of a client command such as ``sbatch``; ClusterError if it fails or does not answer."""
        command = [program(str(words[0])), *map(str, words[1:])]
        try:
            done = subprocess.run(command, check=False, env=self.env, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"{words[0]} did not answer within {timeout:g} s\n{self.log_tails()}") from error
        if done.returncode != 0:
            raise ClusterError(f"{' '.join(map(str, words))} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def submit(self, command: str, *options: str) -> int:
        """sbatch a shell command; returns the job id."""
        return int(self.client("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={command}"))

    def jobs(self) -> list[dict[str, str]]:
        """Every job and array task that the controller remembers, finished ones too, as `SQUEUE_FIELDS` names it."""
        listing = self.client("squeue", "-t", "all", "-r", "-h", "-o", "|".join(SQUEUE_FIELDS.values()))
        return [dict(zip(SQUEUE_FIELDS, line.split("|"), strict=True)) for line in listing.splitlines()]

    def wait_job(self, job: int, *states: str, timeout: float = 30) -> None:
        """Wait until a job is in one of `states`."""

        def there() -> bool:
            return any(found["id"] == str(job) and found["state"] in states for found in self.jobs())

        try:
            wait_until(f"job {job} is {' or '.join(states)}", there, timeout, 0.1)
        except ClusterError as error:
            shown = self.client("scontrol", "show", "job", job)
            raise ClusterError(f"{error}\n{shown}\n{self.log_tails()}") from error

    def node_states(self) -> dict[str, str]:
        """What sinfo says of each node: ``idle``, ``mixed``, ``down*`` and so on."""
        return dict(line.split() for line in self.client("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").splitlines())

    def wait_idle(self, timeout: float = 40) -> None:
        """Wait until all nodes are up and nothing runs or waits."""

        def idle() -> bool:
            return set(self.node_states().values()) == {"idle"} and not self.client("squeue", "-h").strip()

        try:
            wait_until("all nodes idle and no jobs", idle, timeout, 0.05)
        except ClusterError as error:
            seen = self.client("sinfo", "-R") + str(self.node_states()) + "\n" + self.client("squeue")
            raise ClusterError(f"{error}\n{seen}\n{self.log_tails()}") from error

    def set_state(self, state: str, *names: str, kind: str = "node") -> None:
        """An operator sets the state of nodes, of all without names, or of a partition."""
        reason = ["reason=test"] if kind == "node" and state != "resume" else []
        for name in names or self.names:
            self.client("scontrol", "update", f"{kind}name={name}", f"state={state}", *reason)

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

    def back_in_service(self) -> None:
        """Resume the nodes that an operator or Slurm has taken out of service."""
        if lost := [name for name, state in self.node_states().items() if state.startswith(("down", "drain"))]:
            self.set_state("resume", *lost)

    def heal(self) -> None:
        """Make it a healthy idle cluster again, whatever was done to it."""
        self.munge.start()
        self.start_accounting()
        self.start_controller()
        for name, node in self.nodes.items():
            node.start()
            self.prolog_fails(name, False)
        if self._limited:
            self.most_jobs(-1)
        self.set_state("up", "main", "low", kind="partition")
        try:
            self.cancel_all(15)
        except ClusterError:
            # After a crash of the controller a node may hold a job that nobody can end any more.
            for node in self.nodes.values():
                node.kill()
                node.start()
            self.cancel_all()
        self.back_in_service()
        self.wait_idle()
