"""``hpcmaf status`` of 11,041 tasks, 5,000 of them in Slurm's queue, against squeue alone.

    python -m results.bench.status [--repeat 7]

Starts a real Slurm of its own, fills its queue with five arrays of 1,000 held
jobs, and makes a run directory of five iterations whose other tasks are done,
to come, or failed. Prints the middle of the repetitions, each taken in turn,
and status's share that is not squeue's.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hpcmaf.launch.slurm.commands import SQUEUE
from hpcmaf.run.directory import RunDir
from tests.launch.made_runs import attempted, finish, make_run, submitted
from tests.slurm.cluster import Cluster


def fill(root: Path, slurm: Cluster) -> RunDir:
    """Iterations 0 and 1 and half of 2 are done; the rest of 2 and the next two wait in the queue; a few failed."""
    run, plan, _ = make_run(root, iterations=5, train=1000, evaluation=1000, agents=3)
    queued = 0
    for stage in plan.stages:
        if stage.iteration < 2 or stage.id == "it02/debate":
            finish(run, stage)
        elif len(stage.tasks) == 1000 and queued < 5:
            job = slurm.submit("true", "--hold", "--array=0-999", f"--job-name=made.{stage.id}")
            sent = submitted(run, stage, stage.tasks, str(job))
            queued += 1
            for task in stage.tasks[:100]:
                attempted(run, stage, task, sent.name, text="it begins\n")
    lost = plan.stage("it05/eval")
    sent = submitted(run, lost, lost.tasks[:200], "999999")
    for task in lost.tasks[:200]:
        attempted(run, lost, task, sent.name, {"type": "DataError", "message": f"{task} is torn"}, "it is torn\n")
    return run


def seconds(command: list[str], env: Mapping[str, str]) -> tuple[float, float]:
    """Wall time and processor time of one command, its children's included."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=False, env=env, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(repeat: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder, Cluster.start(Path(folder)) as slurm:
        run = fill(Path(folder) / "run", slurm)
        env = {**slurm.env, "OMP_NUM_THREADS": "1"}
        python = [sys.executable, "-m", "hpcmaf"]
        commands: dict[str, list[str]] = {
            "squeue": [*SQUEUE],
            "hpcmaf --version": [*python, "--version"],
            "hpcmaf status": [*python, "status", str(run.root)],
            "hpcmaf status --json": [*python, "status", str(run.root), "--json"],
        }
        rows = subprocess.run(SQUEUE, check=True, env=env, capture_output=True, text=True).stdout.count("\n")
        shown = subprocess.run(commands["hpcmaf status"], check=False, env=env, capture_output=True, text=True).stdout
        print("\n".join(line for line in shown.splitlines() if line.startswith(("all ", str(run.root)))))
        taken = interleaved(lambda name: seconds(commands[name], env), list(commands), repeat)
        base = statistics.median(wall for wall, _ in taken["squeue"])
        print(f"{rows} rows of squeue, {len(os.sched_getaffinity(0))} cores; middle of {repeat}")
        for name, values in taken.items():
            wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
            walls = [value for value, _ in values]
            print(
                f"{name:22} {wall:6.3f} s ({min(walls):.3f} to {max(walls):.3f}), {cpu:.3f} s of processor, "
                f"{wall / base:.1f} x squeue"
            )


Measured = tuple[float, float]


def interleaved(measure: Callable[[str], Measured], names: list[str], repeat: int) -> dict[str, list[Measured]]:
    """Each in turn, so that other load of the machine meets all of them."""
    taken: dict[str, list[Measured]] = {name: [] for name in names}
    for _ in range(repeat):
        for name in names:
            taken[name].append(measure(name))
    return taken


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7)
    main(parser.parse_args().repeat)
