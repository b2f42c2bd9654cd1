"""The test cluster does what the tests on it rely on."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.configuration import memory_cgroups_work
from tests.slurm.processes import ClusterError, wait_until


def test_a_job_on_four_nodes_sees_their_names_and_its_gpus(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit(
        "srun --ntasks-per-node=1 bash -c 'echo $SLURMD_NODENAME $(hostname) $CUDA_VISIBLE_DEVICES'",
        "--nodes=4",
        "--gpus-per-node=2",
        f"--output={tmp_path}/out",
    )
    slurm.wait_job(job, "COMPLETED")
    names = slurm.names if slurm.isolated else [socket.gethostname()] * 4
    expected = [f"{node} {host} 0,1" for node, host in zip(slurm.names, names, strict=True)]
    assert sorted((tmp_path / "out").read_text().splitlines()) == expected


def test_every_task_of_an_array_runs_once(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit(f"echo ran >> {tmp_path}/$SLURM_ARRAY_TASK_ID", "--array=0-19%8")
    wait_until("20 tasks completed", lambda: len(_of_array(slurm, job, "COMPLETED")) == 20, 30, 0.1)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {str(task): "ran\n" for task in range(20)}


def test_a_crashed_node_is_noticed_and_a_time_limit_holds(slurm: Cluster, tmp_path: Path) -> None:
    limited = slurm.submit("sleep 300", "--time=5", "--nodelist=node1")
    slurm.wait_job(limited, "RUNNING")
    slurm.expire(limited)
    job = slurm.submit(
        f"echo $SLURMD_NODENAME >> {tmp_path}/starts; [ $SLURM_RESTART_COUNT ] || sleep 60",
        "--requeue",
        "--nodelist=node[2-3]",
        "--nodes=2",
    )
    slurm.wait_job(job, "RUNNING")
    wait_until("it started", lambda: (tmp_path / "starts").exists(), 5)
    crashed = time.monotonic()
    slurm.kill_node("node3")
    slurm.wait_job(job, "PENDING", timeout=25)
    assert time.monotonic() - crashed < 20
    assert slurm.node_states()["node3"].startswith("down")
    slurm.start_node("node3")
    slurm.wait_job(job, "COMPLETED", timeout=40)
    assert (tmp_path / "starts").read_text().splitlines() == ["node2", "node2"]
    slurm.wait_job(limited, "TIMEOUT", timeout=30)


def test_tasks_outlive_their_slurmd(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit(f"sleep 1; echo lived > {tmp_path}/out", "--nodelist=node4")
    slurm.wait_job(job, "RUNNING")
    slurm.kill_slurmd_only("node4")
    wait_until("the task ended", lambda: (tmp_path / "out").exists(), 10)
    slurm.start_node("node4")
    slurm.wait_job(job, "COMPLETED")


def test_a_restarted_controller_still_has_what_was_queued(slurm: Cluster) -> None:
    held = slurm.submit("true", "--hold")
    running = slurm.submit("sleep 4")
    slurm.wait_job(running, "RUNNING")
    slurm.kill_controller(15)
    slurm.start_controller()
    assert slurm.job(held)["reason"] == "JobHeldUser"
    slurm.client("scontrol", "release", held)
    slurm.wait_job(held, "COMPLETED")
    slurm.wait_job(running, "COMPLETED")


def test_preemption_signals_then_requeues(slurm: Cluster, tmp_path: Path) -> None:
    low = slurm.submit(
        f"trap 'echo warned >> {tmp_path}/out' USR2; echo start >> {tmp_path}/out; "
        "[ $SLURM_RESTART_COUNT ] || for i in $(seq 600); do sleep .1; done",
        "--partition=low",
        "--exclusive",
        "--nodes=4",
        "--requeue",
        "--signal=B:USR2@60",
    )
    slurm.wait_job(low, "RUNNING")
    wait_until("it started", lambda: (tmp_path / "out").exists(), 5)
    high = slurm.submit("true", "--partition=high", "--nodes=4", "--exclusive")
    slurm.wait_job(low, "PENDING")
    slurm.wait_job(high, "COMPLETED")
    assert (tmp_path / "out").read_text().split() == ["start", "warned"]


def test_the_database_may_go_and_come_back(slurm: Cluster) -> None:
    slurm.stop_accounting()
    job = slurm.submit("true")
    slurm.wait_job(job, "COMPLETED")
    with pytest.raises(ClusterError, match="ended with 1: sacct: error"):
        slurm.client("sacct", "-n", "-X", "-j", job)
    slurm.start_accounting()
    shown = ["sacct", "-n", "-X", "-P", "-o", "state", "-j", job]
    wait_until("sacct knows the job", lambda: slurm.client(*shown).strip() == "COMPLETED", 20, 0.2)


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.parametrize("how", ["poll", "cgroup"] if memory_cgroups_work() else ["poll"])
def test_who_takes_more_memory_than_asked_for_is_killed(how: str, tmp_path: Path) -> None:
    take = "import time; taken = b'1' * 2**29; time.sleep(30)"
    with Cluster.start(tmp_path, nodes=1, accounting=False, memory_kill=how) as cluster:
        job = cluster.submit(f'exec {sys.executable} -S -c "{take}"', "--mem=100")
        ended = cluster.wait_job(job, "FAILED", "OUT_OF_MEMORY", "COMPLETED")
    assert (ended["state"], ended["reason"]) == {
        "poll": ("FAILED", "JobLaunchFailure"),
        "cgroup": ("OUT_OF_MEMORY", "OutOfMemory"),
    }[how]


def _of_array(slurm: Cluster, job: int, state: str) -> list[dict[str, str]]:
    return [found for found in slurm.jobs() if found["array_job"] == str(job) and found["state"] == state]
