"""A week of a cluster's misfortunes in an hour: a run of five iterations has to come to its end by itself.

    python -m tests.slurm.soak --events 40 --minutes 55 --seed 1

Events come one after another, in an order and to nodes that the seed decides.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hpcmaf.launch.slurm.causes import nodes_to_avoid
from hpcmaf.launch.slurm.submissions import Submissions
from tests.slurm.cluster import Cluster
from tests.slurm.errands import plant, python_for, result_file, undisturbed
from tests.slurm.runs import Loop


class Week:
    """What happens to a cluster while a run is on it; a gate fails while there is a file ``gate``."""

    def __init__(self, cluster: Cluster, loop: Loop, gate: Path, seed: int) -> None:
        self.cluster, self.loop, self.gate = cluster, loop, gate
        self.random = random.Random(seed)
        self.hurt: set[str] = set()
        self.told: list[str] = []

    def events(self) -> list[Callable[[str], None]]:
        """One of each kind, and three that tasks meet; all take the node that they may happen to."""
        met = ["sigkill", "no-memory", "exit 137", "training hardware", "training lost", "memory"]
        met += [f"errno {number}" for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)]
        return [
            self.node_crashes,
            self.daemon_crashes,
            self.node_is_taken_down,
            self.prolog_fails,
            self.runs_are_not_mounted,
            self.controller_crashes,
            self.munge_is_away,
            self.accounting_is_away,
            partial(self.partition, "drain"),
            partial(self.partition, "inactive"),
            self.few_jobs_are_allowed,
            self.job_is_requeued,
            self.job_is_killed,
            self.gate_fails_early,
            self.run_is_held,
            *(partial(self.task_meets, what) for what in self.random.sample(met, k=3)),
        ]

    def strike(self, count: int, every: float) -> None:
        """Let events happen, one per so many seconds, until there were enough or the run is done."""
        deck: list[Callable[[str], None]] = []
        for _ in range(count):
            if self.loop.done():
                return
            begun = time.monotonic()
            if not deck:  # each kind once before any comes again
                deck = self.random.sample(self.events(), k=len(self.events()))
            event, node = deck.pop(), self.random.choice(self.cluster.names)
            name = event.func.__name__ if isinstance(event, partial) else event.__name__  # type: ignore[attr-defined]
            words = " ".join([name, *getattr(event, "args", ()), node])
            self.told.append(words)
            print(f"{time.strftime('%H:%M:%S')} {len(self.told)}: {words}", flush=True)
            event(node)
            assert self.loop.stopped() is None, self.loop.stopped()
            time.sleep(max(0.0, begun + every - time.monotonic()))

    # --- nodes
    def node_crashes(self, node: str) -> None:
        self.hurt.add(node)
        self.cluster.kill_node(node)
        time.sleep(6)
        self.cluster.start_node(node)

    def daemon_crashes(self, node: str) -> None:
        self.hurt.add(node)
        self.cluster.kill_slurmd_only(node)
        time.sleep(2)
        self.cluster.start_node(node)

    def node_is_taken_down(self, node: str) -> None:
        self.hurt.add(node)
        self.cluster.down(node, "soak")
        time.sleep(2)
        self.cluster.resume(node)

    def prolog_fails(self, node: str) -> None:
        self.hurt.add(node)
        self.cluster.prolog_fails(node)
        time.sleep(4)
        self.cluster.prolog_fails(node, False)
        self.back_in_service()

    def runs_are_not_mounted(self, node: str) -> None:
        self.hurt.add(node)
        inside = ["nsenter", "-t", str(self.cluster.nodes[node].first_process()), "-m", "-p"]
        runs = self.loop.run.root.parent
        subprocess.run([*inside, "mount", "-t", "tmpfs", "tmpfs", runs], check=True)
        time.sleep(5)
        subprocess.run([*inside, "umount", "-l", runs], check=True)

    def back_in_service(self) -> None:
        for name, state in self.cluster.node_states().items():
            if state.startswith(("down", "drain")):
                self.cluster.resume(name)

    # --- daemons, partitions, limits
    def controller_crashes(self, node: str) -> None:
        self.cluster.kill_controller()
        time.sleep(4)
        self.cluster.start_controller()

    def munge_is_away(self, node: str) -> None:
        self.cluster.stop_munge()
        time.sleep(5)
        self.cluster.start_munge()

    def accounting_is_away(self, node: str) -> None:
        self.cluster.stop_accounting()
        time.sleep(5)
        self.cluster.start_accounting()

    def partition(self, state: str, node: str) -> None:
        self.cluster.client("scontrol", "update", "partitionname=main", f"state={state}")
        time.sleep(6)
        self.cluster.client("scontrol", "update", "partitionname=main", "state=up")

    def few_jobs_are_allowed(self, node: str) -> None:
        self.cluster.most_jobs(3)
        time.sleep(5)
        self.cluster.most_jobs(-1)

    # --- jobs and tasks
    def job_is_requeued(self, node: str) -> None:
        if ours := [job for job in self.cluster.jobs() if job["state"] == "RUNNING"]:
            job = self.random.choice(ours)["id"]
            subprocess.run(["scontrol", "requeue", job], check=False)

    def job_is_killed(self, node: str) -> None:
        """A task's or a gate's Python, as the kernel does when memory runs out."""
        found = subprocess.run(["pgrep", "-f", f"hpcmaf.launch.slurm.job {self.loop.run.root}"], check=False, stdout=-1)
        if pids := found.stdout.split():
            os.kill(int(self.random.choice(pids)), signal.SIGKILL)

    def gate_fails_early(self, node: str) -> None:
        self.gate.touch()

    def run_is_held(self, node: str) -> None:
        with self.loop.run.drive(60):
            time.sleep(5)

    def task_meets(self, what: str, node: str) -> None:
        done = self.loop.run.done_tasks(self.loop.plan)
        stages = self.loop.plan.stages
        left = [(stage.id, task) for stage in stages for task in stage.tasks if task not in done[stage.id]]
        plant(self.loop.run, *left[min(self.random.randrange(4, 12), len(left) - 1)], what)


def soak(folder: Path, *, seed: int, events: int, minutes: float, iterations: int) -> Week:
    """Run it; asserts that the run came to its end by itself, and to the end that an undisturbed one has."""
    with Cluster.start(folder / "c") as cluster:
        kept = dict(os.environ)
        os.environ |= cluster.settings
        try:
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
            time.sleep(8)  # for a controller that crashes to remember what it was told
            week.strike(events, 60 * 0.9 * minutes / events)
            week.back_in_service()
            (folder / "runs" / "over").touch()
            loop.finish(600 + 30 * minutes)
            assert len(week.told) == events
            excluded = set(nodes_to_avoid(Submissions(loop.run.submissions).verdicts))
            pointed = {line["node"] for line in loop.events("verdict") if line["kind"] == "hardware"}
            assert excluded <= week.hurt | pointed, (excluded, loop.events("verdict"))
            stages = {stage.id: stage for stage in loop.plan.stages}
            for (stage, task), told in undisturbed(loop.plan).items():
                assert result_file(loop.run, stages[stage], task).read_text() == told, f"{stage} {task}"
            assert all(loop.run.metrics(t).exists() for t in range(iterations + 1))
            cluster.wait_idle(120)
            return week
        finally:
            os.environ.clear()
            os.environ |= kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--events", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=55.0)
    parser.add_argument("--iterations", type=int, default=5)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak", dir="/tmp"))
    begun = time.monotonic()
    week = soak(folder, seed=asked.seed, events=asked.events, minutes=asked.minutes, iterations=asked.iterations)
    verdicts = week.loop.verdicts()
    shutil.rmtree(folder)
    counts = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in sorted(set(verdicts)))
    print(f"{len(week.told)} events, {(time.monotonic() - begun) / 60:.1f} minutes; attempts that failed: {counts}")


if __name__ == "__main__":
    main()
