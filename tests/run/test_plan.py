"""Plans: what depends on what, and when a run may go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import load_profile
from hpcmaf.config.recipe import Recipe
from hpcmaf.errors import DataError, PlanChangedError, RunBusyError
from hpcmaf.files.publish import write_json
from hpcmaf.jobs.context import TaskContext
from hpcmaf.jobs.finetune import finetune_job
from hpcmaf.jobs.serving import served_models
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, build_plan, check_continues, describe_problems, shard_count
from hpcmaf.tasks.problems import Problem

PROBLEMS = {"train": {"count": 10, "sha256": "a"}, "eval": {"count": 7, "sha256": "b"}}


def plan(*overrides: str, iters: int = 2, site: tuple[str, ...] = ("generation.problems_per_shard=4",)) -> Plan:
    return build_plan(load_recipe(overrides=overrides, iterations=iters), load_profile("local", site), PROBLEMS, "base")


def test_stages_and_what_they_wait_for() -> None:
    made = plan()
    waits = {stage.id: set(stage.after) for stage in made.stages}
    assert waits == {
        "it00/eval": set(),
        "it00/score": {"it00/eval"},
        "it01/debate": set(),
        "it01/merge": {"it01/debate"},
        "it01/finetune": {"it01/merge"},
        "it01/eval": {"it01/finetune"},
        "it01/score": {"it01/eval", "it01/merge"},
        "it02/debate": {"it01/finetune"},
        "it02/merge": {"it02/debate"},
        "it02/finetune": {"it02/merge", "it01/finetune"},
        "it02/eval": {"it02/finetune"},
        "it02/score": {"it02/eval", "it02/merge"},
    }
    assert made.stage("it01/debate").tasks == ("00000", "00001", "00002")
    assert made.stage("it01/eval").tasks == ("00000", "00001")
    assert len(made.stage("it02/finetune").tasks) == 6


def test_shards_are_never_empty() -> None:
    profile = load_profile("local", ["generation.problems_per_shard=1", "generation.max_shards=4"])
    assert shard_count(100, profile.generation) == 4
    assert shard_count(3, profile.generation) == 3


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (plan("training.learning_rate=5e-5"), "recipe.training.learning_rate"),
        (plan("debate.agents=4"), "recipe.debate.agents"),
        (plan("seed=1"), "recipe.seed"),
        (plan(site=("generation.problems_per_shard=5",)), "tasks.debate"),
        (plan(iters=1), "extended but not shortened"),
    ],
)
def test_a_changed_plan_is_refused_by_name(changed: Plan, words: str) -> None:
    with pytest.raises(PlanChangedError, match=words):
        check_continues(plan(), changed, "runs/x")


def test_a_run_can_be_extended_and_its_site_changed() -> None:
    site = ("generation.problems_per_shard=4", "jobs=7")
    for other in (plan(iters=5), plan(site=site), plan("description=other words")):
        check_continues(plan(), other, "runs/x")
    check_continues(plan(iters=0), plan(iters=1), "runs/x")


def test_the_digest_covers_the_plan(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write_json(run.plan, plan().to_json())
    assert run.load_plan() == plan()
    assert plan().sha256 == plan().sha256 != plan("seed=1").sha256
    value = json.loads(run.plan.read_text())
    value["recipe"]["seed"] = 9
    write_json(run.plan, value)
    with pytest.raises(PlanChangedError, match="edited since"):
        run.load_plan()
    run.plan.write_text('{"torn": ')
    with pytest.raises(PlanChangedError, match="damaged"):
        run.load_plan()
    with pytest.raises(DataError, match="not a run directory"):
        RunDir(tmp_path / "no").load_plan()


def test_problems_are_frozen_in_the_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "odd name 'with' \"quotes\"")
    problems = [Problem("a", "1\x002 \u2028 \ud800", "3", {"level": "1"}), Problem("b", "q", None)]
    run.write_problems("train", problems)
    planned = {"train": describe_problems(problems), "eval": PROBLEMS["eval"]}
    made = build_plan(load_recipe(), load_profile(), planned, "b")
    assert run.read_problems("train", made) == problems
    run.problems("train").write_text("")
    with pytest.raises(PlanChangedError, match="not the problems this run was planned with"):
        run.read_problems("train", made)


def test_one_driver_and_one_worker_at_a_time(tmp_path: Path) -> None:
    run, stage = RunDir(tmp_path), plan().stage("it01/merge")
    with run.drive(), pytest.raises(RunBusyError, match="another 'hpcmaf submit'"), run.drive():
        pass
    with run.claim(stage, "all"):
        assert run.claimed(stage, "all")
        with pytest.raises(RunBusyError), run.claim(stage, "all"):
            pass
    assert not run.claimed(stage, "all")


def test_runs_are_found_by_path_or_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunDir.locate("x").root == Path("runs/x")
    assert RunDir.locate("a/x").root == Path("a/x")
    assert RunDir.locate(tmp_path / "x").root == tmp_path / "x"
    write_json(tmp_path / "here" / "plan.json", {})
    assert RunDir.locate("here").root == Path("here")


def test_the_day_that_templates_are_told_is_the_runs(tmp_path: Path) -> None:
    """In plan.json, and the same for debates and for training."""
    made = plan("model.date='2026-03-04'")
    assert made.to_json()["recipe"]["model"]["date"] == "2026-03-04"
    run = RunDir(tmp_path)
    recipe, stage = Recipe.model_validate(made.recipe), made.stage("it01/finetune")
    context = TaskContext(run, made, load_profile("local"), stage, "generator-0", tmp_path)
    assert finetune_job(context).date == served_models(run, recipe, 0)[0].chat["date"] == "2026-03-04"
    with pytest.raises(PlanChangedError, match=r"recipe\.model\.date = 2026-03-04, now it is 2026-03-05"):
        check_continues(made, plan("model.date='2026-03-05'"), "run")
