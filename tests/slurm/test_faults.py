"""What clusters do to jobs, done to real ones."""

from __future__ import annotations

import errno
import shutil
import signal
import time
from pathlib import Path

import pytest

from hpcmaf.launch.slurm.causes import nodes_to_avoid
from hpcmaf.launch.slurm.submissions import Submissions
from tests.slurm.cluster import Cluster
from tests.slurm.errands import plant, python_for, started
from tests.slurm.runs import Loop
from tests.slurm.soak import soak


def test_a_failed_attempt_is_judged_by_its_cause(slurm: Cluster, tmp_path: Path) -> None:
    """Again, with half the batch, on another node, each as its cause has it; the rest of the run stays as it is."""
    met = {
        # Slurm itself kills for memory, which squeue tells no differently from kill -9.
        ("it00/eval", "00000"): (["eat 900"], ["out of memory"], 1),
        ("it01/debate", "00000"): (["memory", "memory"], ["out of memory"] * 2, 2),
        # Killed twice, it is believed to want for memory.
        ("it01/debate", "00001"): (["sigkill", "sigkill"], ["killed"] * 2, 1),
        ("it01/debate", "00002"): ([f"errno {errno.ESTALE}", f"errno {errno.EREMOTEIO}"], ["hardware"] * 2, 0),
        ("it01/finetune", "critic-0"): (["exit 137"], ["killed"], 0),
        ("it01/finetune", "critic-1"): (["training lost"], ["hardware"], 0),
        ("it01/finetune", "generator-0"): (["training hardware"], ["hardware"], 0),
        ("it01/finetune", "generator-1"): (["no-memory"], ["out of memory"], 1),
    }
    loop = Loop(slurm, tmp_path / "run", "slurm.generation.memory_gb=0.4", iters=1)
    for key, (what, _, _) in met.items():
        plant(loop.run, *key, *what)
    loop.start()
    loop.finish()
    assert len(loop.verdicts()) == sum(len(kinds) for _, kinds, _ in met.values())
    for key, (what, kinds, halvings) in met.items():
        assert loop.verdicts(*key) == kinds, key
        node, halved = loop.errands(*key)[0].split()
        assert int(halved) == halvings and started(loop.run, *key) == len(what) + 1, key
        if "hardware" in kinds:
            assert node not in {line["node"] for line in loop.events("verdict") if (line["stage"], line["task"]) == key}


def test_what_will_not_change_stops_the_chain_and_the_same_command_goes_on(slurm: Cluster, tmp_path: Path) -> None:
    loop = Loop(slurm, tmp_path / "run", iters=1)
    plant(loop.run, "it01/merge", "all", "error", "full-disk")
    plant(loop.run, "it01/finetune", "generator-1", "bug")
    loop.start()
    stop = loop.stops()
    assert "it01/merge all: the engine is broken; mend it; log: " in stop.reason
    assert "error: the engine is broken; mend it" in Path(stop.log).read_text()
    slurm.wait_idle()
    assert not loop.run.done_tasks(loop.plan)["it01/finetune"]
    loop.start()
    stop = loop.stops()
    assert "store.h5: No space left on device; free space there" in stop.reason
    logs = [path for path in loop.run.root.glob("it01/jobs/*merge*/*_log.out") if ".gate." not in path.parent.name]
    assert [log.read_text().count("left there: []") for log in sorted(logs)] == [0, 1], "half a file"
    loop.start()
    stop = loop.stops()
    assert stop.task == "generator-1" and "ZeroDivisionError: a defect" in stop.reason
    assert "Traceback" in Path(stop.log).read_text()
    assert len(loop.run.done_tasks(loop.plan)["it01/finetune"]) == 3, "others that were running were cut short"
    loop.start()
    loop.finish()


def preempt(slurm: Cluster, loop: Loop, node: str, command: str) -> None:
    """Let an urgent job have the node of the only task that is not done; wait for both."""
    loop.wait("the others were done", lambda: len(loop.run.done_tasks(loop.plan)["it00/eval"]) == 2)
    urgent = slurm.submit(command, "--partition=high", f"--nodelist={node}", "--exclusive")
    loop.finish()
    slurm.wait_job(urgent, "COMPLETED", timeout=120)


def test_a_node_whose_daemon_dies_runs_on_beside_the_new_copy(slurm: Cluster, tmp_path: Path) -> None:
    """Slurm requeues the task while the first copy is still at work: the second waits, and does nothing twice."""
    loop = Loop(slurm, tmp_path / "run")
    plant(loop.run, "it00/eval", "00000", "sleep 25")
    loop.start()
    slurm.nodes[loop.runs("it00/eval", "00000")].kill_slurmd()
    loop.finish()


def test_preemption(slurm: Cluster, tmp_path: Path) -> None:
    loop = Loop(slurm, tmp_path / "run", "slurm.partition=low", "slurm.generation.minutes=30")
    plant(loop.run, "it00/eval", "00001", "advance 60")
    loop.start()
    preempt(slurm, loop, loop.runs("it00/eval", "00001"), "sleep 3")
    assert started(loop.run, "it00/eval", "00001") == 2
    assert set(loop.verdicts()) <= {"preempted", "stopped"}


def test_preemption_while_python_starts(slurm: Cluster, tmp_path: Path) -> None:
    """Slurm takes a job that dies of its signals for one that has ended, so this one is deaf to them."""
    node, slow = tmp_path / "node", tmp_path / "slow-python"
    first = (
        f"mkdir {tmp_path}/once 2>/dev/null && echo $SLURMD_NODENAME > {node}.new && mv {node}.new {node} && sleep 20"
    )
    slow.write_text(f'#!/bin/sh\n{first}\nexec {python_for(tmp_path / "errands")} "$@"\n')
    slow.chmod(0o755)
    loop = Loop(slurm, tmp_path / "run", "slurm.partition=low", f"slurm.python={slow}")
    loop.start()
    loop.wait("Python was starting", node.exists)
    preempt(slurm, loop, node.read_text().strip(), "true")
    assert set(loop.verdicts()) <= {"preempted"}


@pytest.mark.long
def test_a_time_limit_with_progress_and_one_without(slurm: Cluster, tmp_path: Path) -> None:
    """Slurm looks at its clock every 30 seconds, so the signal comes 10 to 40 seconds ahead of the limit.

    Earlier it could meet a Python that is still starting, which has no ear for it.
    """
    site = ("slurm.generation.minutes=1", "slurm.signal_seconds=10")
    stalls, advances = (Loop(slurm, tmp_path / what, *site) for what in ("stall", "advance"))
    for loop in (stalls, advances):
        plant(loop.run, "it00/eval", "00001", f"{loop.run.root.name} 90")
        loop.start()
    stop = stalls.stops(120)
    assert (stop.stage, stop.task) == ("it00/eval", "00001")
    assert "time limit of 1 minutes without getting any further" in stop.reason
    advances.finish()
    assert started(advances.run, "it00/eval", "00001") >= 2
    assert "killed" not in advances.verdicts()


def test_the_controller_crashes_and_forgets_the_last_seconds(slurm: Cluster, tmp_path: Path) -> None:
    """It wakes up with a state in which debates run and their gate waits; what that gate submitted is unknown."""
    loop = Loop(slurm, tmp_path / "run", "slurm.settle_seconds=6", shape=("task.train=4", "task.eval=4"))
    plant(loop.run, "it00/eval", "00000", "sleep 8")
    plant(loop.run, "it00/score", "all", "sleep 3")
    loop.start()
    loop.runs("it00/eval", "00000")
    slurm.wait_saved()
    # Without what the controller is writing, which may be gone before it is copied.
    shutil.copytree(slurm.home / "state", tmp_path / "state", ignore=shutil.ignore_patterns("*.new", "*.tmp"))
    loop.wait("scoring was queued", lambda: loop.task("it00/score", "all"), 60)
    slurm.controller.kill()
    shutil.rmtree(slurm.home / "state")
    shutil.copytree(tmp_path / "state", slurm.home / "state")
    time.sleep(6)
    slurm.start_controller()
    loop.finish()


def test_jobs_that_start_while_the_controller_is_away(slurm: Cluster, tmp_path: Path) -> None:
    """Their srun is not heard, which says nothing of their nodes: tasks are submitted again, a gate waits and returns."""
    hold, loops = tmp_path / "hold", list[Loop]()
    hold.touch()
    for kind, names in (("tasks", "*gate*) ;; *) {}"), ("gate", "*eval.gate*) {};; *)")):
        (tmp_path / kind).mkdir()
        wait = f"touch {tmp_path}/{kind}/up.$SLURM_JOB_ID; while [ -e {hold} ]; do sleep 0.1; done"
        setup = f"case $SLURM_JOB_NAME in {names.format(wait)};; esac"
        # The watch comes later than the gate is back.
        loops.append(Loop(slurm, tmp_path / kind / "run", f'slurm.setup=["{setup}"]', "slurm.settle_seconds=15"))
        loops[-1].start()
    loops[-1].wait("all jobs had started", lambda: len(list(tmp_path.glob("*/up.*"))) == 3 + 1, 60)
    slurm.wait_saved()
    slurm.controller.kill()
    hold.unlink()
    time.sleep(8)
    slurm.start_controller()
    for loop in loops:
        loop.finish()
        assert set(loop.verdicts()) <= {"lost"}
        assert nodes_to_avoid(Submissions(loop.run.submissions).verdicts) == []
    gate = next(line["job"] for line in loops[-1].events("submitted") if line["after"])
    job = slurm.client("scontrol", "show", "job", gate, "--oneliner")
    assert " Restarts=1 " in job and "ExcNodeList=node" not in job, job


@pytest.mark.long
def test_ten_misfortunes_in_a_row(slurm: Cluster, tmp_path: Path) -> None:
    """A few minutes of a cluster's worst week, node and accounting lost in them; ``tests.slurm.soak`` is the whole."""
    soak(slurm, tmp_path, seed=7, events=10, minutes=1.0, iterations=1)
