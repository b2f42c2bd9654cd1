"""What is left of a run after kills, and what a run does about it."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest

from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import Profile, load_profile
from hpcmaf.debate.methods import Society
from hpcmaf.debate.protocol import debate_all
from hpcmaf.errors import DataError, EngineError, PlanChangedError
from hpcmaf.files.publish import write_json, write_text
from hpcmaf.launch.advance import recover, sweep
from hpcmaf.launch.local import Local, Servers, drive
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.launch.progress import Watcher
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage, build_plan
from hpcmaf.tasks.problems import Problem
from tests.debate.scripted import ScriptedEngine
from tests.debate.test_protocol import protocol

PROBLEMS = {"train": {"count": 4, "sha256": "a"}, "eval": {"count": 4, "sha256": "b"}}


def profile(*overrides: str) -> Profile:
    return load_profile("local", ("generation.problems_per_shard=2", *overrides))


def planned(root: Path, iterations: int = 2) -> tuple[RunDir, Plan]:
    """A run of which every task is done, each with an output of its own."""
    run, plan = RunDir(root), build_plan(load_recipe(iterations=iterations), profile(), PROBLEMS, "base")
    write_json(run.plan, plan.to_json())
    for stage in plan.stages:
        for task in stage.tasks:
            finish(run, stage, task)
    return run, plan


def finish(run: RunDir, stage: Stage, task: str) -> None:
    write_text(output(run, stage, task), stage.id)
    run.write_marker(stage, task, [output(run, stage, task)], [{"wall_seconds": 2.0}])


def output(run: RunDir, stage: Stage, task: str) -> Path:
    return run.iteration(stage.iteration) / f"{stage.kind}-{task}.out"


def undone(run: RunDir, plan: Plan) -> set[str]:
    return {f"{stage.id} {task}" for stage in plan.stages for task in stage.tasks if not run.done(stage, task)}


def test_an_output_that_is_gone_is_made_again_if_somebody_reads_it(tmp_path: Path) -> None:
    """Deleting a damaged shard is what the error about it asks for: it has to be enough."""
    run, plan = planned(tmp_path)
    shard, merge = plan.stage("it02/debate"), plan.stage("it02/merge")
    output(run, shard, "00001").unlink()
    assert recover(run, plan) == [], "its merge is done: nobody reads the shard again"
    run.marker(merge, "all").unlink()
    assert recover(run, plan) == ["it02/debate 00001: it02/debate-00001.out is gone; doing it again"]
    assert undone(run, plan) == {"it02/debate 00001", "it02/merge all"}
    # What is made again gets its inputs again.
    output(run, shard, "00000").unlink()
    output(run, plan.stage("it02/score"), "all").unlink()
    recover(run, plan)
    assert undone(run, plan) == {"it02/score all", "it02/merge all", "it02/debate 00000", "it02/debate 00001"}


def test_old_models_may_be_deleted(tmp_path: Path) -> None:
    """Those of the last iteration too, until the run is extended and starts from them."""
    run, plan = planned(tmp_path)
    for t in (1, 2):
        for agent in plan.stage(f"it0{t}/finetune").tasks:
            output(run, plan.stage(f"it0{t}/finetune"), agent).unlink()
        assert recover(run, plan) == [] and undone(run, plan) == set()
    longer = build_plan(load_recipe(iterations=3), profile(), PROBLEMS, "base")
    again = recover(run, longer)
    assert len(again) == 12 and all("/finetune " in line for line in again), "each starts from the one before"


def test_rubbish_of_killed_writers_goes_unless_somebody_works(tmp_path: Path) -> None:
    run, plan = planned(tmp_path)
    stage = plan.stage("it01/debate")
    rubbish = [run.iteration(1) / ".data.0123.tmp", run.attempts(stage, "00000") / ".progress.json.4567.tmp"]
    journals = [run.journal(run.shard(1, "debate", shard)) for shard in (0, 1)]
    run.marker(stage, "00001").unlink()

    def litter() -> None:
        (rubbish[0] / "deep").mkdir(parents=True, exist_ok=True)
        for path in (rubbish[0] / "deep" / "file", rubbish[1], *journals):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("half")

    litter()
    with run.claim(stage, "00001"):
        sweep(run, plan)
        assert all(path.exists() for path in (*rubbish, *journals))
    sweep(run, plan)
    assert not any(path.exists() for path in rubbish)
    assert [path.exists() for path in journals] == [False, True], "an unfinished shard goes on from its journal"


def test_a_driver_puts_its_run_in_order_before_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, plan = planned(tmp_path)
    score, temporary = plan.stage("it02/score"), run.iteration(2) / ".metrics.json.89ab.tmp"
    output(run, score, "all").unlink()
    text = io.StringIO()

    def step(_: Local) -> bool:
        assert not run.done(score, "all"), "its output is gone"
        finish(run, score, "all")
        temporary.write_text("of a worker that was killed while the driver lived")
        return False

    monkeypatch.setattr(Local, "step", step)
    watcher = Watcher(run, plan, profile(), text)
    assert not list(drive(run, plan, profile(), watcher, Servers(profile(), run.root)))
    assert "it02/score all: it02/score-all.out is gone; doing it again" in text.getvalue()
    assert not temporary.exists()


@pytest.mark.parametrize(
    "error", [EngineError("base: its chat template refuses a debate's turns"), DataError("no expression in it")]
)
def test_a_failing_debate_says_why_in_its_own_class(error: Exception) -> None:
    """Not as one of many exceptions in a group: the class is the exit code, the text is the line."""
    def refuse(_: object) -> str:
        raise error

    problems = [Problem(f"p{n}", "q") for n in range(5)]
    society = Society.of(3, ())
    with pytest.raises(type(error)) as caught:
        asyncio.run(debate_all(problems, society, protocol(), ScriptedEngine(refuse)))
    assert caught.value is error


def test_results_without_a_plan_are_not_taken_for_another_plans(tmp_path: Path) -> None:
    """Markers do not say which plan they belong to; the directory's one plan does."""
    run, _ = planned(tmp_path)
    run.plan.unlink()
    with pytest.raises(PlanChangedError, match=r"holds results but no plan\.json"):
        prepare_run(run, load_recipe(), profile())
    assert not run.plan.exists()
