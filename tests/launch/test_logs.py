"""``hpcmaf logs``, ``retry`` and ``cancel`` of run directories made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hpcmaf.cli import cancel, logs, retry
from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import load_profile
from hpcmaf.errors import ConfigError, PlanChangedError, SlurmError, UsageError
from hpcmaf.launch.logs import tail
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.launch.scheduler import Stop, read_stop, write_stop
from hpcmaf.launch.slurm.submissions import Cause, Submissions
from hpcmaf.run.directory import RunDir
from tests.launch.conftest import SlurmSays
from tests.launch.made_runs import attempted, finish, make_run, squeue_line, submitted


def ask(verb: object, run: RunDir, *words: str) -> Result:
    return CliRunner().invoke(verb.command, [str(run.root), *words], catch_exceptions=False)  # type: ignore[attr-defined]


def test_the_last_attempt_and_finetuning_with_both_its_logs(tmp_path: Path, slurm_says: SlurmSays) -> None:
    run, plan, _ = make_run(tmp_path / "run")
    stage = plan.stage("it01/finetune")
    sent = submitted(run, stage, stage.tasks, "7")
    attempted(run, stage, "critic-0", sent.name, text="the first\n")
    folder = attempted(run, stage, "critic-0", sent.name, text="the second\n")
    (folder / "finetune.log").write_text("epoch 1\n")
    output = ask(logs, run, "it01/finetune", "critic-0").output
    titles = [line for line in output.splitlines() if line.startswith("===")]
    assert all(line.startswith("=== it01/finetune critic-0, attempt 2, job 1 on node1: ") for line in titles)
    assert [line.rpartition("/")[2] for line in titles] == ["critic-0_0_log.err", "finetune.log"]
    assert "epoch 1" in output and "the second" in output and "the first" not in output


def test_failed_ones_of_a_local_run(tmp_path: Path) -> None:
    run, plan, _ = make_run(tmp_path / "run", launcher="local")
    stage = plan.stage("it00/eval")
    sent = submitted(run, stage, stage.tasks, "4711")
    attempted(run, stage, "00000", sent.name, {"type": "DataError", "message": "torn"}, "the bad one\n")
    Submissions(run.submissions).judge((stage.id, "00000"), Cause("error", "torn", submission=sent.name))
    attempted(run, stage, "00001", sent.name, text="the good one\n")
    finish(run, stage, ["00001"])
    assert "the bad one" in (output := ask(logs, run, "--failed").output) and "the good one" not in output
    assert ask(logs, run).output == output
    finish(run, stage)
    assert "nothing failed" in ask(logs, run, "--failed").output
    with pytest.raises(ConfigError, match="runs on this machine"):
        ask(cancel, run, "--yes")
    assert "no logs; name a stage" in ask(logs, run).output
    assert "the good one" in ask(logs, run, "it00/eval").output


def test_a_job_that_ended_before_its_task_began(tmp_path: Path, slurm_says: SlurmSays) -> None:
    """Where not even its log could be opened, as on a node without the run's file system, status's words are left."""
    run, plan, _ = make_run(tmp_path / "run")
    stage = plan.stage("it00/eval")
    sent = submitted(run, stage, stage.tasks, "7")
    lines = [squeue_line("7", index, "FAILED", sent.name, node="node2") for index in range(2)]
    slurm_says(squeue=1, sacct=1)
    assert "what failed is not known" in ask(logs, run, "--failed").output
    slurm_says(squeue="\n".join(lines), sacct="")
    output = ask(logs, run, "--failed").output
    for task in stage.tasks:
        assert f"it00/eval {task}: its job ended as FAILED on node2 before the task began; it left no log" in output
    folder = run.jobs(stage, sent.name)
    folder.mkdir(parents=True)
    for index in (0, 1):
        (folder / f"7_{index}_0_log.err").write_text(f"python: not found on node{index}\n")
    output = ask(logs, run, "it00/eval", "00000").output
    assert "has not begun" in output and "on node0" in output and "on node1" not in output


def test_the_newest_gate_or_the_one_that_stopped_the_run(tmp_path: Path, slurm_says: SlurmSays) -> None:
    run, plan, _ = make_run(tmp_path / "run")
    stage = plan.stage("it00/eval")
    finish(run, stage)
    for job, text in (("8", "older"), ("9", "newer")):
        folder = run.jobs(stage, submitted(run, stage, (), job, gate=True).name)
        folder.mkdir(parents=True)
        (folder / f"{job}_0_log.err").write_text(f"the {text} gate's last words\n")
    assert "newer" in ask(logs, run, "gate").output
    write_stop(run, Stop(reason="the gate failed: sbatch: no", kind="gate", log=str(folder)))
    slurm_says(squeue="", sacct="")
    result = ask(logs, run, "--failed")
    assert "the newer gate's last words" in result.output and "the gate failed: sbatch: no" in result.output


def test_tail(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"first\n" + b"x" * 200_000 + b"\n 10%\r 50%\r100%\r\n\x1b[31mred\xff end\n")
    assert tail(path, 2) == ["100%", "\\x1b[31mred\ufffd end"]
    assert len(tail(path, 0)) == 4 and tail(path, 0)[0] == "first"
    assert [len(line) for line in tail(path, 3)] == [200_000, 4, len("\\x1b[31mred? end")]
    path.write_bytes(b"")
    assert tail(path, 5) == []


def test_retry_does_not_cut_the_run_anew(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    small = load_recipe(overrides=["task.train=4", "task.eval=4"], iterations=0)
    prepare_run(run, small, load_profile("test-cluster"))
    before = run.profile.read_bytes()
    with pytest.raises(PlanChangedError, match="tasks"):
        ask(retry, run, "--set-profile", "generation.problems_per_shard=2")
    assert run.profile.read_bytes() == before


def test_cancel_asks_first_and_says_what_is_left(tmp_path: Path, slurm_says: SlurmSays) -> None:
    run, plan, _ = make_run(tmp_path / "run")
    stage = plan.stage("it00/eval")
    sent = submitted(run, stage, stage.tasks, "7")
    gate = submitted(run, stage, (), None, gate=True)  # its id was never learnt
    lines = [squeue_line("7", 0, "RUNNING", sent.name), squeue_line("8", None, "PENDING", gate.name)]
    calls = slurm_says(squeue="\n".join([*lines, squeue_line("9", None, "RUNNING", "other")]), scancel="")
    with pytest.raises(UsageError, match="--yes"):
        ask(cancel, run)
    assert read_stop(run) is None
    with pytest.raises(SlurmError, match="2 job\\(s\\) have not ended: 8, 7; give the same command again"):
        ask(cancel, run, "--yes", "--wait", "0")
    assert [line for line in calls.read_text().splitlines() if line.startswith("scancel")] == [
        "scancel --quiet 8",
        "scancel --quiet 7",
    ]
    stop = read_stop(run)
    assert stop is not None and stop.kind == "cancelled"


def test_cancel_keeps_an_earlier_reason_and_a_finished_run(tmp_path: Path, slurm_says: SlurmSays) -> None:
    run, plan, _ = make_run(tmp_path / "run")
    slurm_says(squeue="", scancel="")
    write_stop(run, Stop(reason="torn", kind="error"))
    assert "Slurm has no jobs of it" in ask(cancel, run, "--yes").output
    stop = read_stop(run)
    assert stop is not None and stop.reason == "torn"
    run.stopped.unlink()
    for stage in plan.stages:
        finish(run, stage)
    assert "nothing to cancel" in ask(cancel, run, "--yes").output
    assert read_stop(run) is None
