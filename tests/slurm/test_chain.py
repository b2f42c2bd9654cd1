"""Chains of real jobs: arrays in windows, gates, submits by hand."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.commands import HPCMAF
from tests.slurm.cluster import Cluster
from tests.slurm.errands import plant, started
from tests.slurm.runs import SHAPE, Loop


def test_two_iterations_by_gates(slurm: Cluster, tmp_path: Path) -> None:
    """Evaluation runs beside the next debates; whoever submits again meanwhile, or afterwards, adds nothing."""
    loop = Loop(slurm, tmp_path / "it's a run", iters=2)
    plant(loop.run, "it01/debate", "00001", "sleep 4")
    plant(loop.run, "it01/eval", "00000", "sleep 6")
    chain = loop.start()
    assert {sent.stage for sent in chain.submitted} == {"it00/eval", "it01/debate"}
    assert loop.start().submitted == []
    loop.wait("it02's debates were done", lambda: loop.run.done_tasks(loop.plan)["it02/debate"], 60)
    assert not loop.run.done_tasks(loop.plan)["it01/score"]
    loop.finish()
    loop.reports()
    names = [line["name"] for line in loop.events("intent")]
    assert len(set(names)) == len(names)
    assert any(".it02.finetune.critic-1." in name for name in names)
    assert loop.verdicts() == []
    slurm.wait_idle()
    assert loop.start().submitted == []


def test_debates_and_evaluation_of_a_society_in_the_same_jobs(slurm: Cluster, tmp_path: Path) -> None:
    """Jobs die in one and in the other, and one is requeued: what was done is not done again."""
    loop = Loop(slurm, tmp_path / "run", "generation.evaluate_with_debate=true", iters=1)
    plant(loop.run, "it00/eval", "00000", "sigkill")
    plant(loop.run, "it01/debate", "00001", "sigkill")
    plant(loop.run, "it01/debate", "00002", "sleep 4")
    assert {sent.stage for sent in loop.start().submitted if not sent.gate} == {"it01/debate"}
    first = [["00000", "it00/eval/00000"], ["00001", "it00/eval/00001"], ["00002"]]
    assert [line["elements"] for line in loop.events("intent") if line["elements"]] == [first]
    loop.runs("it01/debate", "00002")
    slurm.client("scontrol", "requeue", loop.task("it01/debate", "00002")["id"] + "_2")
    loop.finish()
    causes = {(line["stage"], line["task"]): line["kind"] for line in loop.events("verdict")}
    killed = {("it00/eval", "00000"): "killed", ("it01/debate", "00001"): "killed"}
    assert causes == {**killed, ("it00/eval", "00001"): "lost"}
    assert [started(loop.run, *key) for key in (("it01/debate", "00000"), *killed)] == [1, 2, 2]


def test_an_alarm_ends_a_chain_at_the_gate_behind_its_score(slurm: Cluster, tmp_path: Path) -> None:
    """Nothing of the next iteration is submitted before, and submitting once more adds nothing."""
    loop = Loop(slurm, tmp_path / "run", iters=3, shape=(*SHAPE, "iterations={auto: 3}"))
    plant(loop.run, "it01/score", "all", "alarm")
    loop.start()
    loop.reports()
    loop.plan = loop.run.load_plan()
    assert loop.done() and {stage.iteration for stage in loop.plan.stages} == {0, 1}
    assert {line["stage"][:4] for line in loop.events("intent")} == {"it00", "it01"}
    slurm.wait_idle()
    assert loop.start().submitted == [] and loop.verdicts() == []


def test_windows_lose_nothing_and_keep_to_the_limit(slurm: Cluster, tmp_path: Path) -> None:
    site = ("slurm.max_array_size=4", "slurm.generation.at_once=3", "generation.problems_per_shard=1")
    loop = Loop(slurm, tmp_path / "run", *site, shape=("task.train=1", "task.eval=10"))
    loop.start()
    windows = [line for line in loop.events("intent") if line["stage"] == "it00/eval" and line["elements"]]
    assert [len(line["elements"]) for line in windows] == [3, 3, 4]
    names, most = {line["name"] for line in windows}, 0
    while not loop.done():
        most = max(most, sum(job["name"] in names and job["state"] == "RUNNING" for job in slurm.jobs()))
        loop.wait("a moment passed", lambda: True)
    assert 1 < most <= 3
    loop.finish()


def test_where_jobs_may_not_submit_jobs_the_same_command_moves_the_run_on(slurm: Cluster, tmp_path: Path) -> None:
    refusing = tmp_path / "bin" / "sbatch"
    refusing.parent.mkdir()
    refusing.write_text("#!/bin/sh\necho 'sbatch: error: Access/permission denied' >&2\nexit 1\n")
    refusing.chmod(0o755)
    loop = Loop(slurm, tmp_path / "run", f'slurm.setup=["export PATH={refusing.parent}:$PATH"]')
    loop.start()
    stop = loop.stops()
    assert stop.kind == "gate" and "Access/permission denied" in stop.reason
    slurm.wait_idle()
    loop.start()
    loop.finish()


def test_two_submits_at_once(slurm: Cluster, tmp_path: Path) -> None:
    """The real command, twice in the same moment: one set of jobs."""
    loop = Loop(slurm, tmp_path / "run", iters=1)
    command = [*HPCMAF, "submit", "--profile", str(loop.run.profile), "--iters", "1"]
    command += ["--recipe", str(loop.run.recipe), "--run", str(loop.run.root)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 0], [0, 9]), said
    names = [line["name"] for line in loop.events("intent")]
    firsts = [line for line in loop.events("intent") if line["stage"] == "it01/debate" and line["elements"]]
    assert len(firsts) == 1, names
    slurm.cancel_all()
