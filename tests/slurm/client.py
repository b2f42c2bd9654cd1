"""Slurm's client commands against a test cluster."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.slurm.processes import PATH, ClusterError, program, wait_until

REPOSITORY = Path(__file__).parents[2]
SQUEUE_FIELDS = {
    "id": "%A",
    "array_job": "%F",
    "array_task": "%K",
    "state": "%T",
    "reason": "%r",
    "nodes": "%N",
    "name": "%j",
}


class Client:
    """Submits to a cluster and looks at it.

    Parameters
    ----------
    home : Path
        The cluster's folder.
    """

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def conf_path(self) -> Path:
        return self.home / "etc/slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """This process's environment with nothing of another Slurm in it, and with this one's configuration."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SQUEUE"))}
        return kept | {"SLURM_CONF": str(self.conf_path), "PATH": PATH}

    @property
    def settings(self) -> dict[str, str]:
        """What a process has to have in its environment for its jobs to run here and to find the tests' own work."""
        return {name: self.env[name] for name in ("SLURM_CONF", "PATH")} | {"PYTHONPATH": str(REPOSITORY)}

    def client(self, *words: object, timeout: float = 20) -> str:
        """Standard output of a client command such as ``sbatch``; ClusterError if it fails or does not answer."""
        command = [program(str(words[0])), *map(str, words[1:])]
        try:
            done = subprocess.run(
                command, check=False, env=self.env, capture_output=True, text=True, timeout=timeout, cwd=self.home
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"{words[0]} did not answer within {timeout:g} s\n{self.log_tails()}") from error
        if done.returncode != 0:
            raise ClusterError(f"{' '.join(map(str, words))} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def submit(self, command: str, *options: str) -> int:
        """sbatch a shell command; returns the job id."""
        where = [] if any(word.startswith("--output") for word in options) else ["--output=/dev/null"]
        return int(self.client("sbatch", "--parsable", *where, *options, f"--wrap={command}").partition(";")[0])

    def jobs(self) -> list[dict[str, str]]:
        """Every job and array task that the controller remembers, finished ones too, as `SQUEUE_FIELDS` names it."""
        listing = self.client("squeue", "-t", "all", "-r", "-h", "-o", "|".join(SQUEUE_FIELDS.values()))
        return [dict(zip(SQUEUE_FIELDS, line.split("|"), strict=True)) for line in listing.splitlines()]

    def job(self, job: int) -> dict[str, str]:
        """The line of `jobs` about one job; ClusterError if the controller does not know it."""
        for found in self.jobs():
            if found["id"] == str(job):
                return found
        raise ClusterError(f"the controller does not know job {job}")

    def wait_job(self, job: int, *states: str, timeout: float = 30) -> dict[str, str]:
        """Wait until a job is in one of `states`; returns its line of `jobs`."""
        try:
            wait_until(f"job {job} is {' or '.join(states)}", lambda: self.job(job)["state"] in states, timeout, 0.1)
        except ClusterError as error:
            shown = self.client("scontrol", "show", "job", job)
            raise ClusterError(f"{error}\n{shown}\n{self.log_tails()}") from error
        return self.job(job)

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

    def log_tails(self, lines: int = 12) -> str:
        """The last lines of each log of the cluster."""
        parts = []
        logs = self.home / "log"
        # slurmctld and slurmdbd say the same in both their files.
        for path in sorted(
            {path for path in logs.iterdir() if not path.with_suffix(".log").exists()} | set(logs.glob("*.log"))
        ):
            text = path.read_text(encoding="utf-8", errors="replace").splitlines()
            if text:
                parts.append("\n".join([f"--- {path.name}", *text[-lines:]]))
        return "\n".join(parts)
