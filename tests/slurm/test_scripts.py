"""The scripts of slurm/ in the hands of a real sbatch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from hpcmaf.run.directory import RunDir
from hpcmaf.store.verify import verify
from tests.commands import hpcmaf, setting
from tests.slurm.cluster import REPOSITORY, Cluster
from tests.slurm.processes import wait_until

SLURM = REPOSITORY / "slurm"
SHAPE = ("task.train=12", "task.eval=8", "debate.agents=2", "training.epochs=1", "method=maft-no-critic")
WORDS = [*setting(*SHAPE), "--profile", "test-cluster", "--iters", "1"]


@pytest.fixture(autouse=True)
def folder(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user's shell is."""
    folder = tmp_path / "a user's folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HPCMAF_PYTHON", sys.executable)
    return folder


def sbatch(slurm: Cluster, *words: str | Path) -> int:
    return int(slurm.client("sbatch", "--parsable", *words))


def wait(slurm: Cluster, job: int, timeout: float = 120) -> None:
    """Wait for a job, or all of an array, to end well."""

    def states() -> set[str]:
        return {line["state"] for line in slurm.jobs() if line["array_job"] == str(job)}

    wait_until(f"job {job} ended", lambda: not states() & {"PENDING", "RUNNING", "COMPLETING"}, timeout, 0.2)
    assert states() == {"COMPLETED"}, logs()


def logs() -> str:
    return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(Path().glob("*.log")))


@pytest.mark.timeout(600)
def test_the_loop_runs_inside_one_allocation(slurm: Cluster) -> None:
    """Nothing else is submitted."""
    profile = ["--profile", "local", "--set-profile", "jobs=2"]
    earlier = {line["array_job"] for line in slurm.jobs()}  # the accounting's, of other tests
    job = sbatch(slurm, "--partition=main", SLURM / "onenode.sh", *profile, *WORDS[:-4], "--iters", "1", "--run", "one")
    wait(slurm, job, timeout=400)
    assert {line["array_job"] for line in slurm.jobs()} - earlier == {str(job)}
    run = RunDir(Path("runs/one"))
    assert run.metrics(1).exists() and verify(run.root) == []


@pytest.mark.timeout(600)
def test_each_stage_runs_alone(slurm: Cluster) -> None:
    shards = ["--set-profile", "generation.problems_per_shard=6"]
    hpcmaf("plan", "--write", *WORDS, *shards, "--run", "alone")
    run = RunDir(Path("runs/alone"))
    plan = run.load_plan()

    def done(stage: str) -> set[str]:
        return run.done_tasks(plan)[stage]

    wait(slurm, sbatch(slurm, "--array=0-1", SLURM / "stage.sh", "debate", "alone", "1"))
    assert done("it01/debate") == {"00000", "00001"}
    wait(slurm, sbatch(slurm, SLURM / "stage.sh", "merge", "alone", "1"))
    assert done("it01/merge") == {"all"}
    first = sbatch(slurm, "--array=1", SLURM / "stage.sh", "finetune", "alone", "1")
    second = sbatch(slurm, "--nodes=2", SLURM / "stage.sh", "finetune", "alone", "1", "--task", "generator-0")
    wait(slurm, first)
    wait(slurm, second)
    assert done("it01/finetune") == {"generator-0", "generator-1"}
    # All of a stage's tasks in one job, and what is done stays done.
    wait(slurm, sbatch(slurm, SLURM / "stage.sh", "eval", "alone", "1"))
    wait(slurm, sbatch(slurm, SLURM / "stage.sh", "score", "alone", "1"))
    again = sbatch(slurm, SLURM / "stage.sh", "finetune", "alone", "1")
    wait(slurm, again)
    assert Path(f"hpcmaf-stage-{again}.log").read_text().count("done already") == 2
    assert run.metrics(1).exists() and verify(run.root) == []


@pytest.mark.long
@pytest.mark.timeout(600)
def test_nodes_without_names_meet_and_a_hung_one_gives_both_back(slurm: Cluster) -> None:
    """No name service knows the nodes; then all of the second one's processes stand still in the middle of training."""
    endless = ["--set", "training.epochs=100000", "--run", "hung"]
    hpcmaf("plan", "--write", *WORDS, *endless)
    run = RunDir(Path("runs/hung"))
    for stage in ("it01/debate", "it01/merge"):
        hpcmaf("stage", "hung", stage)
    hosts = slurm.home / "etc/hosts"
    names = hosts.read_text()
    # In place: nodes have this very file as theirs.
    hosts.write_text("127.0.0.1 localhost\n")
    try:
        job = sbatch(slurm, "--nodes=2", SLURM / "stage.sh", "finetune", "hung", "1", "--task", "generator-0")
        steps = run.attempts(run.load_plan().stage("it01/finetune"), "generator-0") / "0001/progress.jsonl"
        wait_until("they train", lambda: steps.exists() and steps.read_text().count("\n") > 3, 300, 0.5)
    finally:
        hosts.write_text(names)
    second = processes_on(slurm, "node2", str(run.root.name))
    began = time.monotonic()
    for process in second:
        os.kill(process, signal.SIGSTOP)
    slurm.wait_job(job, "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", timeout=150)
    wait_until("both nodes are free", lambda: set(slurm.node_states().values()) == {"idle"}, 60, 0.2)
    took = time.monotonic() - began
    assert took < 120, f"{took:.0f} s"
    [cause] = [json.loads(path.read_text()) for path in steps.parent.glob("cause.json")]
    assert "node 1" in cause["message"] and "gave no sign of life" in cause["message"], cause


def processes_on(slurm: Cluster, node: str, word: str) -> list[int]:
    """Those of hpcmaf on a node whose command line holds a word, and all that they have started."""
    known = slurm.nodes[node].first_process().children(recursive=True)
    mine = [p for p in known if word in " ".join(p.cmdline()) and "hpcmaf" in " ".join(p.cmdline())]
    family = {p.pid for p in mine} | {child.pid for p in mine for child in p.children(recursive=True)}
    assert len(family) >= 3, family
    return sorted(family)


def test_scripts_run_from_folders_of_any_name(slurm: Cluster) -> None:
    copy = Path.cwd().parent / "n.shah's shared dir" / "stage.sh" / "slurm"
    shutil.copytree(SLURM, copy)
    job = sbatch(slurm, copy / "stage.sh", "merge", "nowhere", "1")
    slurm.wait_job(job, "FAILED", timeout=60)
    log = Path(f"hpcmaf-stage-{job}.log").read_text()
    assert "hpcmaf.sh: not found" not in log and "nowhere" in log, log


def test_time_running_out_reaches_a_stage_and_loses_nothing(slurm: Cluster) -> None:
    big = ["--set", "task.train=2000", "--set-profile", "generation.problems_per_shard=2000"]
    hpcmaf("plan", "--write", *WORDS, *big, "--run", "long")
    run = RunDir(Path("runs/long"))
    journal = run.journal(run.shard(1, "debate", 0))
    job = sbatch(slurm, SLURM / "stage.sh", "debate", "long", "1")
    wait_until("something was debated", lambda: journal.exists() and journal.stat().st_size > 0, 60, 0.1)
    # What --signal=B:USR2@120 in the header does two minutes before the end.
    slurm.client("scancel", "--batch", "--signal=USR2", str(job))
    slurm.wait_job(job, "FAILED", timeout=30)
    assert "ExitCode=143:0" in slurm.client("scontrol", "show", "job", str(job)), logs()
    assert "error: it01/debate 00000: stopped at " in logs()
    assert journal.stat().st_size > 0
