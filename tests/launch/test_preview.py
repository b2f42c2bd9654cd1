"""``hpcmaf plan`` shows what ``hpcmaf submit`` sends, and does nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from hpcmaf.cli import plan, submit
from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import Profile, load_profile
from hpcmaf.config.recipe import Recipe
from hpcmaf.errors import HpcmafError, PlanChangedError, UsageError
from hpcmaf.launch import doctor
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.launch.slurm.gate import submit as submit_run
from hpcmaf.launch.slurm.preview import Recording, preview
from hpcmaf.launch.slurm.refusals import SubmitLimitError
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Stage
from tests.launch.conftest import SlurmSays

SMALL = ("task.train=12", "task.eval=8", "debate.agents=2")
SITE = ("generation.problems_per_shard=2", "slurm.max_array_size=2", "slurm.generation.at_once=3")


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, on a machine without Slurm's commands."""
    empty, work = tmp_path / "empty", tmp_path / "work"
    empty.mkdir()
    work.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.chdir(work)
    return work


def recipe() -> Recipe:
    return load_recipe(overrides=SMALL, iterations=2)


def profile(*more: str) -> Profile:
    return load_profile("test-cluster", [*SITE, *more])


def ask(command: click.Command, *words: str) -> Result:
    small = [word for value in SMALL for word in ("--set", value)]
    result = CliRunner().invoke(command, [*small, *words])
    if result.exception is not None and not isinstance(result.exception, HpcmafError | SystemExit):
        raise result.exception
    return result


def refused(kind: type[HpcmafError], *words: str) -> str:
    result = ask(plan.command, *words)
    assert isinstance(result.exception, kind), (result.output, result.exception)
    assert "\n" not in str(result.exception)
    return str(result.exception)


def row(output: str, stage: str) -> str:
    """A stage's line of the table, single-spaced."""
    return next(" ".join(line.split()) for line in output.splitlines() if line.startswith(f"{stage} "))


def plainly(text: str, names: dict[str, str]) -> str:
    """A script without job ids and without the numbers in names; ids become names."""
    text = re.sub(r"(?<=[:=])(JOB_\d+|\d{16,})(?=[:\n])", lambda match: names[match[1]], text)
    text = re.sub(r"-[0-9a-f]{8}(?=\.it)", "-xxxxxxxx", text)
    return re.sub(r"\.\d{4}\b", ".NNNN", text)


def test_the_scripts_shown_are_those_sent(tmp_path: Path, slurm_says: SlurmSays) -> None:
    slurm_says(sbatch="#!/bin/sh\ndate +%s%N\n", squeue="", scontrol="MaxArraySize = 5\n")
    run, site = RunDir(tmp_path / "it's a run"), profile()
    laid_out = prepare_run(run, recipe(), site)
    shown = preview(run, laid_out, site)
    submitted = submit_run(run, laid_out, site).submitted
    # In their order under one name without its number: a stage's windows.
    expected: dict[str, list[str]] = {}
    names = {f"JOB_{job.job}": job.name for job in shown.submitted}
    for job in shown.submitted:
        expected.setdefault(plainly(job.name, {}), []).append(plainly(shown.script(job), names))
    names = {str(job.job): job.name for job in submitted}
    folders = {job.name: run.jobs(laid_out.stage(job.stage), job.name) for job in submitted}
    scripts = {name: plainly((folder / "submission.sh").read_text(), names) for name, folder in folders.items()}
    assert len(scripts) > 5
    for name, script in scripts.items():
        assert script == expected[plainly(name, {})].pop(0)


def test_a_plan_writes_nothing_and_needs_no_slurm(no_slurm: Path) -> None:
    result = ask(plan.command, "--profile", "test-cluster", "--iters", "2")
    assert result.exit_code == 0
    assert list(no_slurm.iterdir()) == []
    assert row(result.output, "it02/finetune") == "it02/finetune it02/merge, it01/finetune 4 of 4 4 jobs -"
    assert "MaxArraySize: 1001" in result.output
    # Stages, three more agents in two of them, gates, a watch.
    assert f"in {12 + 2 * 3 + 12 + 1} submissions, 13 of them gates" in result.output
    assert result.output.count("#!/bin/bash") == 5 + 1  # one of each kind, and the gate's


def test_the_environment_names_site_and_recipe(no_slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCMAF_PROFILE", "test-cluster")
    monkeypatch.setenv("HPCMAF_RECIPE", "arithmetic/micro-500")
    words = ("--profile", "test-cluster", "--recipe", "arithmetic/micro-500", "--iters", "1")
    named = ask(plan.command, *words).output
    assert ask(plan.command, "--iters", "1").output == named != ""
    assert ask(submit.command, "--dry-run", *words).output == named
    assert list(no_slurm.iterdir()) == []
    local = ask(plan.command, "--iters", "1", "--profile", "local", "--set-profile", "jobs=2").output
    assert "#!/bin/bash" not in local and "SBATCH" not in local and "2 at once on this machine" in local


def test_windows_and_ceiling(no_slurm: Path) -> None:
    site = [*SITE, "slurm.generation.gpus=2", "slurm.generation.minutes=90", "attempts=4"]
    words = [word for value in site for word in ("--set-profile", value)]
    output = ask(plan.command, "--profile", "test-cluster", "--iters", "1", *words).output
    once = (6 + 4 + 4) * 2 * 1.5
    assert row(output, "it01/debate") == f"it01/debate - 6 of 6 3 arrays of 2+2+2, 3 at once {6 * 2 * 1.5}"
    assert f"ceiling: {once} GPU-hours if each job takes all of its time once, {4 * once} with all 4" in output
    # One batch script of each kind.
    titles = {line.removeprefix("### ") for line in output.splitlines() if line.startswith("### ")}
    kinds = {"it00/eval", "it01/debate", "it00/score", "it01/merge", "it01/finetune", "gate behind it00/eval"}
    assert titles == kinds


def test_debates_and_evaluation_of_a_society_share_jobs_where_the_profile_says_so(no_slurm: Path) -> None:
    site = profile("generation.evaluate_with_debate=true", "slurm.max_array_size=4")
    run = RunDir(Path("run"))
    sent = preview(run, prepare_run(run, recipe(), site), site)
    arrays = [job for job in sent.submitted if sent.plan.stage(job.stage).kind in {"debate", "eval"}]
    jobs = [[job.keys(index) for index in range(len(job.elements))] for job in arrays if not job.gate]
    for t in (1, 2):
        both = [[(f"it{t:02d}/debate", f"{n:05d}"), (f"it{t - 1:02d}/eval", f"{n:05d}")] for n in range(4)]
        alone = [[(f"it{t:02d}/debate", f"{n:05d}")] for n in (4, 5)]
        assert jobs[2 * t - 2] + jobs[2 * t - 1] == both + alone
    # Nothing is debated after the last iteration; behind shared jobs is one gate.
    assert jobs[4:] == [[[("it02/eval", f"{n:05d}")] for n in range(4)]]
    assert len([job for job in arrays if job.gate and job.after]) == 3
    words = ("--profile", "test-cluster", "--iters", "1", "--set-profile", "generation.evaluate_with_debate=true")
    output = ask(plan.command, *words).output
    assert "those of debates" in row(output, "it00/eval") and "those of debates" not in row(output, "it01/eval")


def test_write_makes_the_run_that_submit_goes_on_with(no_slurm: Path) -> None:
    words = ("--profile", "test-cluster", "--iters", "1", "--run", "mine")
    assert ask(plan.command, "--write", *words).exit_code == 0
    run = RunDir(Path("runs/mine"))
    before = {path: path.read_bytes() for path in run.root.rglob("*") if path.is_file()}
    assert run.plan in before and run.problems("train") in before and run.profile in before
    stage = run.load_plan().stage("it00/eval")
    run.write_marker(stage, stage.tasks[0], [], [])
    output = ask(plan.command, *words).output
    assert row(output, "it00/eval") == "it00/eval - done - -"
    assert "9 of 10 tasks left, in 16 submissions" in output
    assert {path: path.read_bytes() for path in before} == before


def test_a_changed_plan_and_a_run_without_a_name_are_refused(no_slurm: Path) -> None:
    assert "--run is empty" in refused(UsageError, "--iters", "2", "--run", " ")
    assert list(no_slurm.iterdir()) == []
    assert ask(plan.command, "--write", "--run", "mine").exit_code == 0
    assert "debate.rounds = 2, now it is 3" in refused(PlanChangedError, "--run", "mine", "--set", "debate.rounds=3")


def test_plan_tells_what_jobs_would_do_without_or_miss(no_slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    words = ("--profile", "h100", "--set-profile", "finetuning.processes=1")
    result = ask(plan.command, *words)
    assert result.exit_code == 0
    warnings = [line for line in result.stdout.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert "3 of 4 GPUs a node are requested and idle, up to 12.0 GPU-hours of each job" in warnings[0]
    assert "generation.engine is vllm, which this Python does not have" in warnings[1]
    assert "pip install 'hpcmaf[vllm]'" in warnings[1]


def test_the_smaller_limit_on_arrays_is_taken(slurm_says: SlurmSays) -> None:
    for said, limit in (("max_array_tasks=3,bf_interval=1", 3), ("bf_interval=1,max_array_tasks=90", 5), ("(null)", 5)):
        slurm_says(scontrol=f"MaxArraySize = 5\nSchedulerParameters = {said}\n")
        assert f"MaxArraySize: {limit}\n" in ask(plan.command, "--profile", "test-cluster", "--run", "new").stdout


def test_a_window_waits_for_all_parts_of_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm takes one more job at a time only, so that each window of three goes in three parts."""
    run, site = RunDir(tmp_path / "run"), profile("slurm.max_array_size=3", "slurm.generation.at_once=1")
    laid_out, sbatch = prepare_run(run, recipe(), site), Recording._sbatch

    def strict(recording: Recording, stage: Stage, values: dict[str, Any], *rest: Any) -> str:
        if rest[0] > 1:
            raise SubmitLimitError("sbatch: AssocMaxSubmitJobLimit")
        return sbatch(recording, stage, values, *rest)

    monkeypatch.setattr(Recording, "_sbatch", strict)
    sent = preview(run, laid_out, site).submitted
    jobs = [job for job in sent if job.stage == "it01/debate" and not job.gate]
    assert [job.after for job in jobs] == [()] * 3 + [tuple(job.job for job in jobs[:3])] * 3
