"""A week of a cluster's misfortunes in an hour: a run of five iterations has to come to its end by itself.

    python -m tests.slurm.soak --events 40 --minutes 55 --seed 1

Events come one after another, in an order and to nodes that the seed decides.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hpcmaf.launch.scheduler import read_stop
from hpcmaf.launch.slurm.causes import nodes_to_avoid
from hpcmaf.launch.slurm.submissions import Submissions
from tests.commands import processes
from tests.slurm.cluster import Cluster
from tests.slurm.errands import plant, python_for, result_file, undisturbed
from tests.slurm.runs import Loop

# What begins it, how many seconds later it ends, and what ends it.
Event = tuple[Callable[[], object], float, Callable[[], object]]
MET = ["sigkill", "no-memory", "exit 137", "training hardware", "training lost", "memory"]
MET += [f"errno {number}" for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)]


def by_itself() -> None:
    """The end of what nobody has to end."""


class Week:
    """What happens to a cluster while a run is on it; a gate fails while there is a file ``gate``."""

    def __init__(self, cluster: Cluster, loop: Loop, gate: Path, seed: int) -> None:
        self.cluster, self.loop, self.gate = cluster, loop, gate
        self.random = random.Random(seed)
        self.hurt: set[str] = set()
        self.events = 0

    def of_nodes(self, name: str) -> dict[str, Event]:
        """What may happen to a node."""
        node, cluster, runs = self.cluster.nodes[name], self.cluster, self.loop.run.root.parent

        def mend_prolog() -> None:
            cluster.prolog_fails(name, False)
            cluster.back_in_service()

        return {
            "node crashes": (node.kill, 6, node.start),
            "daemon crashes": (node.kill_slurmd, 2, node.start),
            "node is taken down": (partial(cluster.set_state, "down", name), 2, cluster.back_in_service),
            "prolog fails": (partial(cluster.prolog_fails, name), 4, mend_prolog),
            "runs are not mounted": (
                partial(node.inside, "mount", "-t", "tmpfs", "tmpfs", runs),
                5,
                partial(node.inside, "umount", "-l", runs),
            ),
        }

    def of_others(self) -> dict[str, Event]:
        """What may happen to daemons, partitions, limits, jobs and tasks."""
        cluster, holding = self.cluster, self.loop.run.drive(60)
        partition = partial(cluster.set_state, kind="partition")
        return {
            "controller crashes": (cluster.controller.kill, 4, cluster.start_controller),
            "munge is away": (partial(cluster.munge.kill, signal.SIGTERM), 5, cluster.munge.start),
            "accounting is away": (partial(cluster.accounting.kill, signal.SIGTERM), 5, cluster.start_accounting),
            "partition drains": (partial(partition, "drain", "main"), 6, partial(partition, "up", "main")),
            "partition is inactive": (partial(partition, "inactive", "main"), 6, partial(partition, "up", "main")),
            "few jobs are allowed": (partial(cluster.most_jobs, 3), 5, partial(cluster.most_jobs, -1)),
            "job is requeued": (self.requeue, 0, by_itself),
            "job is killed": (self.kill, 0, by_itself),
            "gate fails early": (self.gate.touch, 0, by_itself),
            "run is held": (holding.__enter__, 5, partial(holding.__exit__, None, None, None)),
            "task meets trouble": (self.meet, 0, by_itself),
            "task meets more of it": (self.meet, 0, by_itself),
            "task meets yet more": (self.meet, 0, by_itself),
        }

    def strike(self, count: int, every: float) -> None:
        """Let events happen, one per so many seconds, until there were enough or the run is done."""
        deck: list[str] = []
        for _ in range(count):
            if self.loop.done():
                return
            begun, node = time.monotonic(), self.random.choice(self.cluster.names)
            of_nodes, of_others = self.of_nodes(node), self.of_others()
            if not deck:  # each kind once before any comes again
                names = [*of_nodes, *of_others]
                deck = self.random.sample(names, k=len(names))
            name = deck.pop()
            self.events += 1
            self.hurt |= {node} if name in of_nodes else set()
            print(f"{time.strftime('%H:%M:%S')} {self.events}: {name}, {node}", flush=True)
            begin, seconds, end = (of_nodes | of_others)[name]
            begin()
            time.sleep(seconds)
            end()
            assert (stop := read_stop(self.loop.run)) is None, stop
            time.sleep(max(0.0, begun + every - time.monotonic()))

    def requeue(self) -> None:
        """Requeue one of the jobs."""
        if ours := [job for job in self.cluster.jobs() if job["state"] == "RUNNING"]:
            subprocess.run(["scontrol", "requeue", self.random.choice(ours)["id"]], check=False)

    def kill(self) -> None:
        """Kill a task's or a gate's Python, as the kernel does when memory runs out."""
        if found := processes("hpcmaf.launch.slurm.job", str(self.loop.run.root)):
            os.kill(self.random.choice(found), signal.SIGKILL)

    def meet(self) -> None:
        """Plant a misfortune on the way of a task that is not yet done."""
        done = self.loop.run.done_tasks(self.loop.plan)
        stages = self.loop.plan.stages
        left = [(stage.id, task) for stage in stages for task in stage.tasks if task not in done[stage.id]]
        plant(self.loop.run, *left[min(self.random.randrange(4, 12), len(left) - 1)], self.random.choice(MET))


def soak(cluster: Cluster, folder: Path, *, seed: int, events: int, minutes: float, iterations: int) -> Week:
    """Run it; asserts that the run came to its end by itself, and to the end that an undisturbed one has."""
    (folder / "runs").mkdir()
    gate = folder / "gate"
    setup = f"case $SLURM_JOB_NAME in *gate*) rm {gate} 2>/dev/null && exit 1;; esac"
    # Patience is the tasks' own: with 40 events some meet more than three.
    site = (f"slurm.setup=['{setup}']", "slurm.patience_minutes=0.5", "slurm.settle_seconds=6", "attempts=12")
    # An iteration is four stages one after another, each with its gate.
    pace = max(2.0, 60 * minutes / (4 * iterations + 1) - 15)
    site = (*site, f"slurm.python={python_for(folder / 'errand-python', pace, f'it{iterations:02d}/score')}")
    loop = Loop(cluster, folder / "runs" / "run", *site, iters=iterations)
    week = Week(cluster, loop, gate, seed)
    loop.start()
    cluster.wait_saved()
    week.strike(events, 60 * 0.9 * minutes / events)
    cluster.back_in_service()
    (folder / "runs" / "over").touch()
    loop.wait("the run was done", loop.done, 600 + 30 * minutes)
    assert week.events == events
    excluded = set(nodes_to_avoid(Submissions(loop.run.submissions).verdicts))
    pointed = {line["node"] for line in loop.events("verdict") if line["kind"] == "hardware"}
    assert excluded <= week.hurt | pointed, (excluded, loop.events("verdict"))
    stages = {stage.id: stage for stage in loop.plan.stages}
    for (stage, task), told in undisturbed(loop.plan).items():
        assert result_file(loop.run, stages[stage], task).read_text() == told, f"{stage} {task}"
    assert all(loop.run.metrics(t).exists() for t in range(iterations + 1))
    cluster.wait_idle(120)
    return week


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--events", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=55.0)
    parser.add_argument("--iterations", type=int, default=5)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak", dir="/tmp") as folder, Cluster.start(Path(folder) / "c") as cluster:
        os.environ |= cluster.settings
        week = soak(cluster, Path(folder), **vars(parser.parse_args()))
        counts = Counter(week.loop.verdicts())
    print(f"{week.events} events, {(time.monotonic() - begun) / 60:.1f} minutes; failed attempts: {dict(counts)}")


if __name__ == "__main__":
    main()
