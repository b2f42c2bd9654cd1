"""What clusters put in a gate's way, done to real ones: nothing of it ends a chain."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hpcmaf.launch.slurm.refusals import SubmitLimitError
from hpcmaf.launch.slurm.submissions import Submissions
from tests.slurm.cluster import Cluster
from tests.slurm.errands import plant
from tests.slurm.runs import Loop

HERE = Path(__file__).parent
SMALL = ("debate.agents=2", "task.train=4", "task.eval=4")


def gate_logs(loop: Loop) -> str:
    return "\n".join(log.read_text() for log in loop.run.root.glob("it*/jobs/*.gate.*/*_log.out"))


def wrap(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """Put a script in front of one of Slurm's commands, which it calls as ``$real``."""
    program = folder / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/bash\nreal={shutil.which(name)}\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


# --- limits ------------------------------------------------------------------
def test_a_limit_of_queued_jobs_is_kept_to(slurm: Cluster, tmp_path: Path) -> None:
    """Where none fits submit says so; with fewer places than a stage has tasks what fits goes first, and one is a gate's."""
    slurm.most_jobs(0)
    loop = Loop(slurm, tmp_path / "run")
    with pytest.raises(SubmitLimitError, match="AssocMaxSubmitJobLimit"):
        loop.start()
    log = Submissions(loop.run.submissions)
    assert log.latest == {}
    assert any("AssocMaxSubmitJobLimit" in why for why in log.refused.values())
    slurm.most_jobs(3)
    loop.start()
    loop.finish()
    assert loop.verdicts() == []


# --- launches that fail ------------------------------------------------------
def test_a_job_that_is_held_long_after_its_gate_was_set_is_released(slurm: Cluster, tmp_path: Path) -> None:
    """All nodes are away at first; then the prolog of the first one fails."""
    slurm.set_state("drain")
    slurm.prolog_fails("node1")
    loop = Loop(slurm, tmp_path / "run")
    loop.start()
    slurm.set_state("resume")
    loop.wait("a job was held", lambda: any("held" in job["reason"] for job in slurm.jobs()))
    loop.finish()


def test_a_node_without_the_run_takes_neither_tasks_nor_gates_for_long(slurm: Cluster, tmp_path: Path) -> None:
    """Nothing of the run is there, so all that is sent there fails within a second."""
    (tmp_path / "runs").mkdir()
    loop = Loop(slurm, tmp_path / "runs" / "run")
    slurm.nodes["node1"].inside("mount", "-t", "tmpfs", "tmpfs", tmp_path / "runs")
    try:
        loop.start()
        loop.finish()
    finally:
        slurm.nodes["node1"].inside("umount", "-l", tmp_path / "runs")
    assert set(loop.verdicts()) == {"not started"}


# --- partitions, daemons, file systems ---------------------------------------
def test_a_partition_that_takes_no_jobs_for_a_while(slurm: Cluster, tmp_path: Path) -> None:
    """Its gate finds no place for what comes next, and goes back into the queue."""
    site = ("slurm.partition=low", "slurm.gate.partition=main", "slurm.patience_minutes=0.05")
    loop = Loop(slurm, tmp_path / "run", *site)
    plant(loop.run, "it00/eval", "00000", "sleep 3")
    loop.start()
    loop.runs("it00/eval", "00000")
    slurm.set_state("drain", "low", kind="partition")
    loop.wait("a gate went back", lambda: "back into the queue" in gate_logs(loop))
    assert "Required partition not available" in gate_logs(loop)
    slurm.set_state("up", "low", kind="partition")
    loop.finish()


def test_munge_is_away_while_a_gate_looks_at_the_queue(slurm: Cluster, tmp_path: Path) -> None:
    loop = Loop(slurm, tmp_path / "run", "slurm.settle_seconds=4")
    loop.start()
    loop.wait(
        "a gate was at work",
        lambda: [job for job in slurm.jobs() if ".gate." in job["name"] and job["state"] == "RUNNING"],
    )
    time.sleep(2)
    slurm.munge.kill(signal.SIGTERM)
    time.sleep(9)
    slurm.munge.start()
    loop.finish()


def test_stale_files_and_a_gate_that_fails_before_python(slurm: Cluster, tmp_path: Path) -> None:
    """A gate cannot read its submissions, a task its profile, another gate not even start: each one time."""
    library, marks = tmp_path / "inject.so", [tmp_path / name for name in ("gate", "task")]
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, HERE / "inject.c", "-ldl"], check=True)
    for mark in marks:
        mark.touch()
    once = tmp_path / "once"
    setup = [
        f"case $SLURM_JOB_NAME in *eval.gate*) mkdir {once} 2>/dev/null && exit 1;; esac",
        f"export LD_PRELOAD={library} INJECT_ERRNO={errno.ESTALE}",
        f"export INJECT_PATH=submissions.jsonl INJECT_MARK={marks[0]}",
        f"case $SLURM_JOB_NAME in *gate*) ;; *) export INJECT_PATH=profile.yaml INJECT_MARK={marks[1]};; esac",
    ]
    loop = Loop(slurm, tmp_path / "run", f"slurm.setup={setup}")
    assert loop.run.profile.name == "profile.yaml"
    loop.start()
    loop.finish()
    assert once.exists() and not any(mark.exists() for mark in marks)
    assert loop.verdicts() == ["hardware"]
    assert "Stale file handle" in gate_logs(loop)


# --- answers -----------------------------------------------------------------
def test_wrappers_banners_and_a_users_own_variables(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sbatch says more than an id, and squeue is told to show one partition."""
    noise = "echo Ticket forwarded; echo 10 hours left"
    told = '$real "$@" | sed "s/^\\([0-9]*\\)$/Submitted batch job \\1 on cluster test/"'
    wrap(tmp_path, monkeypatch, "sbatch", f"{noise}\n{told}")
    monkeypatch.setenv("SQUEUE_PARTITION", "high")
    monkeypatch.setenv("SACCT_FORMAT", "JobID")
    loop = Loop(slurm, tmp_path / "run", "slurm.merge.partition=low", "slurm.gate.partition=low")
    chain = loop.start()
    assert all(sent.job and sent.job.isdigit() for sent in chain.submitted)
    loop.finish()
    assert loop.verdicts() == []


def test_sbatch_does_not_answer(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call hangs with its job submitted, the next without: there is one job of each name in the end."""
    heard = f'if mkdir "{tmp_path}/heard" 2>/dev/null; then $real "$@" >/dev/null; sleep 60; fi'
    lost = f'if mkdir "{tmp_path}/lost" 2>/dev/null; then sleep 60; fi'
    wrap(tmp_path, monkeypatch, "sbatch", f'{heard}\n{lost}\nexec $real "$@"')
    loop = Loop(slurm, tmp_path / "run", "slurm.command_seconds=3")
    loop.start()
    assert (tmp_path / "lost").exists()
    names = list(dict.fromkeys(line["name"] for line in loop.events("intent")))
    for name in names[:2]:
        assert len({job["array_job"] for job in slurm.jobs() if job["name"] == name}) == 1, names
    loop.finish()


def test_a_submit_killed_before_it_learnt_the_job(slurm: Cluster, tmp_path: Path) -> None:
    """The id was never written down: the name finds the job."""
    loop = Loop(slurm, tmp_path / "run")
    plant(loop.run, "it00/eval", "00000", "sleep 5")
    loop.start()
    lines = loop.run.submissions.read_text().splitlines(keepends=True)
    known = [line for line in lines if '"event": "submitted"' not in line]
    loop.run.submissions.write_text("".join(known))
    assert [sent for sent in loop.start().submitted if not sent.gate] == []
    loop.finish()


# --- nodes -------------------------------------------------------------------
def setup_that_fails(folder: Path) -> str:
    """Lines of setup that fail tasks of debates on nodes, as often as there are files for it."""
    take = f"for mark in {folder}/bad.$SLURMD_NODENAME.*; do rm $mark 2>/dev/null && exit 1; done"
    return f'slurm.setup=["case $SLURM_JOB_NAME in *gate*) ;; *it00.eval*) {take};; esac"]'


def test_nodes_on_which_a_task_failed_are_left_out_one_after_another(slurm: Cluster, tmp_path: Path) -> None:
    for name in ("node1", "node2"):
        for number in range(9):
            (tmp_path / f"bad.{name}.{number}").touch()
    loop = Loop(slurm, tmp_path / "run", setup_that_fails(tmp_path), shape=SMALL)
    loop.start()
    loop.finish()
    assert loop.verdicts("it00/eval") == ["not started", "not started"]
    assert loop.errands("it00/eval", "00000")[0].split()[0] not in {"node1", "node2"}


def test_where_no_other_node_is_left_the_same_one_is_tried_again(slurm: Cluster, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"bad.node1.{number}").touch()
    site = ("slurm.generation.constraint=only1", setup_that_fails(tmp_path))
    slurm.client("scontrol", "update", "nodename=node1", "ActiveFeatures=h100,only1", "AvailableFeatures=h100,only1")
    loop = Loop(slurm, tmp_path / "run", *site, shape=SMALL)
    try:
        loop.start()
        loop.finish()
    finally:
        slurm.client("scontrol", "update", "nodename=node1", "ActiveFeatures=h100", "AvailableFeatures=h100")
    assert loop.verdicts("it00/eval") == ["not started", "not started"]
    assert loop.errands("it00/eval", "00000")[0].split()[0] == "node1"
