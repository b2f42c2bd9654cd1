"""What clusters do to jobs, done to real ones."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from pathlib import Path

import pytest

from hpcmaf.launch.slurm.causes import nodes_to_avoid
from hpcmaf.launch.slurm.submissions import Submissions
from tests.slurm.cluster import Cluster
from tests.slurm.errands import plant, python_for, started
from tests.slurm.runs import Loop


def test_a_failed_attempt_is_judged_by_its_cause(slurm: Cluster, tmp_path: Path) -> None:
    """Again, with half the batch, on another node, each as its cause has it; the rest of the run stays as it is."""
    met = {
        ("it01/debate", "00000"): (["memory", "memory"], ["out of memory"] * 2, 2),
        # Killed twice, it is believed to want for memory.
        ("it01/debate", "00001"): (["sigkill", "sigkill"], ["killed"] * 2, 1),
        ("it01/debate", "00002"): ([f"errno {errno.ESTALE}", f"errno {errno.EREMOTEIO}"], ["hardware"] * 2, 0),
        ("it01/finetune", "critic-0"): (["exit 137"], ["killed"], 0),
        ("it01/finetune", "critic-1"): (["training lost"], ["hardware"], 0),
        ("it01/finetune", "generator-0"): (["training hardware"], ["hardware"], 0),
        ("it01/finetune", "generator-1"): (["no-memory"], ["out of memory"], 1),
    }
    loop = Loop(slurm, tmp_path / "run")
    for key, (what, _, _) in met.items():
        plant(loop.run, *key, *what)
    loop.start()
    loop.finish(180)
    loop.all_once()
    assert len(loop.verdicts()) == sum(len(kinds) for _, kinds, _ in met.values())
    for key, (what, kinds, halvings) in met.items():
        assert loop.verdicts(*key) == kinds, key
        node, halved = loop.errands(*key)[0].split()
        assert int(halved) == halvings and started(loop.run, *key) == len(what) + 1, key
        if "hardware" in kinds:
            assert node not in {line["node"] for line in loop.events("verdict") if (line["stage"], line["task"]) == key}


@pytest.mark.slow
@pytest.mark.slurm
def test_slurm_kills_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that enforces memory limits, as all do; squeue tells no difference to kill -9."""
    kill = {"JobAcctGatherType": "jobacct_gather/linux", "JobAcctGatherFrequency": "task=1"}
    kill["JobAcctGatherParams"] = "OverMemoryKill"
    with Cluster.start(tmp_path / "cluster", nodes=1, **kill) as strict:
        for name, value in strict.settings.items():
            monkeypatch.setenv(name, value)
        # The cluster's default is 100 MB; a gate that writes the report wants more.
        roomy = [f"slurm.{job}.memory_gb=2" for job in ("finetuning", "merge", "gate")]
        loop = Loop.short(strict, tmp_path / "run", "slurm.generation.memory_gb=0.4", *roomy)
        plant(loop.run, "it00/eval", "00000", "eat 900")
        loop.start()
        loop.finish()
        assert loop.verdicts() == ["out of memory"]
        assert loop.errands("it00/eval", "00000")[0].endswith(" 1")


def test_what_will_not_change_stops_the_chain_and_the_same_command_goes_on(slurm: Cluster, tmp_path: Path) -> None:
    loop = Loop(slurm, tmp_path / "run")
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
    assert loop.stopped() is None
    loop.finish()
    loop.all_once()


def others_are_done(loop: Loop, count: int) -> None:
    """Wait for tasks that may be on the node to which something is about to happen."""
    loop.wait("the others were done", lambda: len(loop.run.done_tasks(loop.plan)["it00/eval"]) == count)


def test_a_node_that_dies_and_a_job_that_is_requeued(slurm: Cluster, tmp_path: Path) -> None:
    """While accounting is away."""
    slurm.stop_accounting()
    loop = Loop.short(slurm, tmp_path / "run")
    tasks = ("00001", "00002")
    for task in tasks:
        plant(loop.run, "it00/eval", task, "sleep 60")
    loop.start()
    loop.wait("the tasks were running", lambda: all(loop.running_on("it00/eval", task) for task in tasks))
    others_are_done(loop, 1)
    job = loop.task("it00/eval", "00001")
    assert job is not None
    slurm.client("scontrol", "requeue", f"{job['array_job']}_{job['array_task']}")
    slurm.kill_node(loop.running_on("it00/eval", "00002") or "")
    loop.finish(120)
    loop.all_once()
    assert started(loop.run, "it00/eval", "00002") == 2


def test_a_node_whose_daemon_dies_runs_on_beside_the_new_copy(slurm: Cluster, tmp_path: Path) -> None:
    """Slurm requeues the task while the first copy is still at work: the second waits, and does nothing twice."""
    loop = Loop.short(slurm, tmp_path / "run")
    plant(loop.run, "it00/eval", "00000", "sleep 25")
    loop.start()
    loop.wait("the task was running", lambda: loop.running_on("it00/eval", "00000"))
    slurm.kill_slurmd_only(loop.running_on("it00/eval", "00000") or "")
    loop.finish(120)
    loop.all_once()


def test_preemption(slurm: Cluster, tmp_path: Path) -> None:
    loop = Loop.short(slurm, tmp_path / "run", "slurm.partition=low", "slurm.generation.minutes=30")
    plant(loop.run, "it00/eval", "00001", "advance 60")
    loop.start()
    loop.wait("the task was running", lambda: loop.running_on("it00/eval", "00001"))
    others_are_done(loop, 2)
    node = loop.running_on("it00/eval", "00001")
    urgent = slurm.submit("sleep 3", "--partition=high", f"--nodelist={node}", "--exclusive")
    loop.finish(120)
    slurm.wait_job(urgent, "COMPLETED", timeout=120)
    loop.all_once()
    assert started(loop.run, "it00/eval", "00001") == 2
    assert set(loop.verdicts()) <= {"preempted", "stopped"}


def test_preemption_while_python_starts(slurm: Cluster, tmp_path: Path) -> None:
    """Slurm takes a job that dies of its signals for one that has ended, so this one is deaf to them."""
    node = tmp_path / "node"
    slow = tmp_path / "slow-python"
    first = (
        f"mkdir {tmp_path}/once 2>/dev/null && echo $SLURMD_NODENAME > {node}.new && mv {node}.new {node} && sleep 20"
    )
    slow.write_text(f'#!/bin/sh\n{first}\nexec {python_for(tmp_path / "errands")} "$@"\n')
    slow.chmod(0o755)
    loop = Loop.short(slurm, tmp_path / "run", "slurm.partition=low", f"slurm.python={slow}")
    loop.start()
    loop.wait("Python was starting", node.exists)
    others_are_done(loop, 2)
    urgent = slurm.submit("true", "--partition=high", f"--nodelist={node.read_text().strip()}", "--exclusive")
    loop.finish(120)
    slurm.wait_job(urgent, "COMPLETED", timeout=120)
    loop.all_once()
    assert set(loop.verdicts()) <= {"preempted"}


@pytest.mark.long
def test_a_time_limit_with_progress_and_one_without(slurm: Cluster, tmp_path: Path) -> None:
    """Slurm looks at its clock every 30 seconds, so the signal comes 10 to 40 seconds ahead of the limit.

    Earlier it could meet a Python that is still starting, which has no ear for it.
    """
    site = ("slurm.generation.minutes=1", "slurm.signal_seconds=10")
    loop = Loop(slurm, tmp_path / "run", *site)
    plant(loop.run, "it01/debate", "00001", "advance 90", "advance 90")
    plant(loop.run, "it00/eval", "00001", "stall 90")
    loop.start()
    stop = loop.stops(120)
    assert stop.task == "00001"
    assert stop.stage == "it00/eval"
    assert "time limit of 1 minutes without getting any further" in stop.reason
    slurm.wait_idle(90)
    loop.start()
    loop.finish(120)
    assert started(loop.run, "it01/debate", "00001") >= 3
    assert "killed" not in loop.verdicts()


def test_the_controller_crashes_and_forgets_the_last_seconds(slurm: Cluster, tmp_path: Path) -> None:
    """It wakes up with a state in which debates run and their gate waits; what that gate submitted is unknown."""
    loop = Loop.short(slurm, tmp_path / "run", "slurm.settle_seconds=6", shape=("task.train=4", "task.eval=4"))
    plant(loop.run, "it00/eval", "00000", "sleep 8")
    plant(loop.run, "it00/score", "all", "sleep 3")
    loop.start()
    loop.wait("debates were running", lambda: loop.running_on("it00/eval", "00000"), 60)
    time.sleep(6)  # for the state to be written
    shutil.copytree(slurm.home / "state", tmp_path / "state")
    loop.wait("scoring was queued", lambda: loop.task("it00/score", "all"), 60)
    slurm.kill_controller()
    shutil.rmtree(slurm.home / "state")
    shutil.copytree(tmp_path / "state", slurm.home / "state")
    time.sleep(6)
    slurm.start_controller()
    loop.finish(150)
    loop.all_once()


@pytest.mark.parametrize("jobs", ["eval", "gate"])
def test_jobs_that_start_while_the_controller_is_away(slurm: Cluster, tmp_path: Path, jobs: str) -> None:
    """Their srun is not heard, which says nothing of their nodes: tasks are submitted again, a gate waits and returns."""
    hold, gates = tmp_path / "hold", jobs == "gate"
    hold.touch()
    wait = f"touch {tmp_path}/up.$SLURM_JOB_ID; while [ -e {hold} ]; do sleep 0.1; done"
    names = "*eval.gate*) {};; *)" if gates else "*gate*) ;; *) {}"
    setup = f"case $SLURM_JOB_NAME in {names.format(wait)};; esac"
    # The watch comes later than the gate is back.
    loop = Loop.short(slurm, tmp_path / "run", f'slurm.setup=["{setup}"]', "slurm.settle_seconds=15")
    loop.start()
    loop.wait("all jobs had started", lambda: len(list(tmp_path.glob("up.*"))) == (1 if gates else 3), 60)
    time.sleep(8)  # for the state to be written
    slurm.kill_controller()
    hold.unlink()
    time.sleep(8)
    slurm.start_controller()
    loop.finish(240)
    loop.all_once()
    assert set(loop.verdicts()) <= {"lost"}
    assert nodes_to_avoid(Submissions(loop.run.submissions).verdicts) == []
    if gates:
        gate = next(line["job"] for line in loop.events("submitted") if line["after"])
        job = slurm.client("scontrol", "show", "job", gate, "--oneliner")
        assert " Restarts=1 " in job and "ExcNodeList=node" not in job, job


@pytest.mark.parametrize("heard", [True, False], ids=["heard", "not-heard"])
def test_sbatch_does_not_answer(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: bool) -> None:
    """The first call hangs, with the job submitted or without: there is one job of its name in the end."""
    real = next(path for path in os.environ["PATH"].split(":") if (Path(path) / "sbatch").exists())
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    submit = f'{real}/sbatch "$@" >/dev/null' if heard else ":"
    fake.write_text(
        f'#!/bin/sh\nif mkdir "{tmp_path}/once" 2>/dev/null; then {submit}; sleep 60; fi\nexec {real}/sbatch "$@"\n'
    )
    fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    loop = Loop.short(slurm, tmp_path / "run", "slurm.command_seconds=3")
    loop.start()
    first = loop.events("intent")[0]["name"]
    assert len({job["array_job"] for job in slurm.jobs() if job["name"] == first}) == 1
    loop.finish()
    loop.all_once()


def test_a_submit_killed_before_it_learnt_the_job(slurm: Cluster, tmp_path: Path) -> None:
    """The id was never written down: the name finds the job."""
    loop = Loop.short(slurm, tmp_path / "run")
    plant(loop.run, "it00/eval", "00000", "sleep 5")
    loop.start()
    lines = loop.run.submissions.read_text().splitlines(keepends=True)
    known = [line for line in lines if '"event": "submitted"' not in line]
    loop.run.submissions.write_text("".join(known))
    assert [sent for sent in loop.start().submitted if not sent.gate] == []
    loop.finish()
    loop.all_once()
