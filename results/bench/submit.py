"""Submitting a long run, and what a chain adds to its stages' own work, on a Slurm of four nodes on this machine.

    python -m results.bench.submit [--shards 1000]

1. Queues the two stages of S tasks each that a run begins with, in windows of
   at most 301 (slurm.max_array_size), and compares with submitit's own ``map_array`` on
   the same cluster; then counts with one squeue that every task is there once.
2. Runs two iterations of tasks that only sleep, and takes the stages' own work
   along the longest path from the wall time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import submitit

from hpcmaf.launch.slurm.commands import configuration, queue
from hpcmaf.run.attempts import all_attempts
from hpcmaf.run.plan import Stage
from tests.slurm.cluster import Cluster
from tests.slurm.errands import python_for
from tests.slurm.runs import Loop

LIMIT = 301


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="maf") as folder, Cluster.start(Path(folder)) as slurm:
        for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH"))]:
            del os.environ[name]
        os.environ |= slurm.settings
        _submit(slurm, Path(folder), arguments.shards)
        slurm.cancel_all()
        _overhead(slurm, Path(folder) / "chain")


def _submit(slurm: Cluster, folder: Path, shards: int) -> None:
    # Held back, so that starting jobs does not compete with submitting them.
    slurm.set_state("drain")
    site = ("generation.problems_per_shard=1", "slurm.generation.at_once=64", f"slurm.max_array_size={LIMIT}")
    shape = ("debate.agents=3", f"task.train={shards}", f"task.eval={shards}")
    loop = Loop(slurm, folder / "long", *site, iters=1, shape=shape)
    began = time.perf_counter()
    chain = loop.start()
    ours = time.perf_counter() - began
    tasks = Counter((job.name, job.index) for job in queue(seconds=60) if job.live and ".gate." not in job.name)
    planned = sum(len(stage.tasks) for stage in loop.plan.stages if not stage.after)
    assert len(tasks) == planned and set(tasks.values()) == {1}, "tasks were lost, or queued twice"
    sizes = Counter(len(sent.elements) for sent in chain.submitted if len(sent.elements) > 1)
    print(f"2 x {shards} shards: {ours:.2f} s")
    print(f"  {planned} tasks queued once each, in {len(chain.submitted)} jobs; arrays of {dict(sizes)}")
    slurm.cancel_all()
    began = time.perf_counter()
    executor = submitit.SlurmExecutor(folder / "peer")
    executor.update_parameters(time=5, partition="main", array_parallelism=64)
    for _ in range(2):
        for first in range(0, shards, LIMIT):
            executor.map_array(abs, range(first, min(shards, first + LIMIT)))
    peer = time.perf_counter() - began
    print(f"  submitit's map_array, the same windows, nothing else: {peer:.2f} s; ours takes {ours / peer:.2f} of that")
    slurm.cancel_all()
    slurm.set_state("resume")
    slurm.wait_idle(60)


def _overhead(slurm: Cluster, root: Path) -> None:
    slow = python_for(root.with_name("errand-python"), 2.0)
    loop = Loop(slurm, root, f"slurm.python={slow}", iters=2)
    began = time.time()
    loop.start()
    loop.wait("the run was done", lambda: loop.done() and loop.run.report.is_dir(), 300)
    ends: dict[str, float] = {}
    work: dict[str, float] = {}
    for stage in loop.plan.stages:
        spans = [_span(loop, stage, task) for task in stage.tasks]
        ends[stage.id] = max(end for _, end in spans)
        work[stage.id] = max(end - start for start, end in spans)
    path, stage = [], max(loop.plan.stages, key=lambda stage: ends[stage.id])
    while True:
        path.append(stage.id)
        if not stage.after:
            break
        stage = loop.plan.stage(max(stage.after, key=ends.__getitem__))
    wall, own = ends[path[0]] - began, sum(work[one] for one in path)
    conf = configuration(seconds=30)
    print(f"{wall:.1f} s for {len(path)} stages one after another, {own:.1f} s of it their own work:")
    print(f"  {(wall - own) / len(path):.2f} s per stage added ({conf['SchedulerParameters']})")


def _span(loop: Loop, stage: Stage, task: str) -> tuple[float, float]:
    attempt = all_attempts(loop.run.attempts(stage, task))[-1]
    return float(attempt.facts["started"]), loop.run.marker(stage, task).stat().st_mtime


if __name__ == "__main__":
    main()
