"""Several machines that run one job together, and notice when one of them dies.

A machine that dies reports nothing to anybody: without the heartbeats here,
the others would wait for it in a collective for half an hour.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from hpcmaf.files.publish import write_text
from hpcmaf.training.failure import Failure

# In the work folder: where node 0 waits for the others.
MEET = "meet"
# Looks at the others within the time that a node may be silent.
_LOOKS = 12


@dataclass(frozen=True, slots=True)
class NodeRank:
    """One node among those of a job.

    Attributes
    ----------
    rank, nodes
        This node's number, from 0, and how many there are. Node 0 publishes.
    run_id
        Names this attempt, and is the same on all nodes.
    address
        Under which the others reach this node: a number rather than a name,
        which not every cluster's nodes know of each other.
    patience_s
        A node without a heartbeat for so long is taken for dead.
    joining_s
        Time for all nodes to come.
    """

    rank: int
    nodes: int
    run_id: str
    address: str
    patience_s: float = 45.0
    joining_s: float = 600.0

    def work(self, logs: Path) -> Path:
        """The folder, beside node 0's logs, through which the nodes share a job."""
        return logs / f"work-{self.run_id}"

    def rendezvous(self, work: Path) -> list[str]:
        """Options of ``torch.distributed.run``; first of node 0, which alone knows its address and a free port."""
        if self.rank == 0:
            with socket.create_server(("", 0)) as server:
                write_text(work / MEET, f"{self.address} {server.getsockname()[1]}")
        host, port = (work / MEET).read_text().split()
        return [
            f"--nnodes={self.nodes}",
            f"--node-rank={self.rank}",
            f"--master-addr={host}",
            f"--master-port={port}",
            f"--rdzv-id={self.run_id}",
            f"--local-addr={self.address}",
        ]


class Heartbeat:
    """Heartbeats of all nodes, as files that change in the work folder.

    Times of different machines are never compared, nor does the observer's own standstill count: a node is dead when
    its file is the same for as many looks as there are in ``patience_s``. A node whose processes somebody has stopped
    (SIGSTOP) has no heartbeat either: the others would wait for it as long as for a dead one.
    """

    def __init__(self, work: Path, node: NodeRank) -> None:
        self._work, self.node = work, node
        self._every = node.patience_s / _LOOKS
        self._count, self._next = 0, 0.0
        # Node 0 watches everybody, the others only node 0: it ends the job for all.
        watched = range(1, node.nodes) if node.rank == 0 else [0]
        # What each wrote last, and at how many looks since.
        self._seen: dict[int, tuple[str | None, int]] = dict.fromkeys(watched, (None, 0))

    def lost(self) -> Failure | None:
        """Write a heartbeat; returns what is to be said when another node has none."""
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + self._every
        self._count += 1
        try:
            if not _any_stopped():
                name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
                self._file(self.node.rank).write_text(f"{self._count} {self.node.address} {name}")
        except FileNotFoundError:
            return Failure("lost", "node 0 has ended the job")
        for rank, (before, looks) in self._seen.items():
            text = _read(self._file(rank))
            self._seen[rank] = (text, looks + 1 if text == before else 0)
            if text is None and looks * self._every > self.node.joining_s:
                return Failure("lost", f"node {rank} has not come within {self.node.joining_s:g} s")
            if text is not None and text == before and looks > _LOOKS:
                _, address, name = [*text.split(" ", 2), "", ""][:3]
                line = f"node {rank} ({address}) gave no sign of life for {self.node.patience_s:g} s"
                return Failure("lost", line, node=name or None)
        return None

    def leave(self) -> None:
        """Record that this node has ended its part and read all it wanted to."""
        with suppress(FileNotFoundError):  # node 0 has ended already
            self._file(self.node.rank, "end").touch()

    def wait_for_others(self, seconds: float) -> list[int]:
        """Wait for all others to leave, but not for ever; returns those that did not."""
        end = time.monotonic() + seconds
        while True:
            missing = [rank for rank in self._seen if not self._file(rank, "end").exists()]
            if not missing or time.monotonic() > end:
                return missing
            time.sleep(0.1)

    def _file(self, rank: int, what: str = "alive") -> Path:
        return self._work / f"node-{rank}.{what}"


def _any_stopped() -> bool:
    """Whether one of the processes that do this node's part is stopped by a signal."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended in between
            if process.status() in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}:
                return True
    return False


def _read(path: Path) -> str | None:
    try:
        return path.read_text() or None
    except FileNotFoundError:
        return None
