"""``hpcmaf stage``: one stage's tasks in this process, by the same rules as every job."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcmaf.cli.stage import command
from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import load_profile
from hpcmaf.errors import DataError, HpcmafError, RunBusyError, StageError, UsageError
from hpcmaf.jobs import task as task_module
from hpcmaf.launch.byhand import find_stage, find_tasks, run_stage
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.run.attempts import all_attempts
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage
from hpcmaf.training.stop import SIGNALS

SHAPE = ["task.train=6", "task.eval=4", "debate.agents=2"]


@pytest.fixture
def planned(tmp_path: Path) -> tuple[RunDir, Plan]:
    """A run of three debate shards."""
    run = RunDir(tmp_path / "runs" / "r")
    return run, prepare_run(
        run, load_recipe(overrides=SHAPE, iterations=1), load_profile("local", ["generation.problems_per_shard=2"])
    )


@pytest.fixture
def work(planned: tuple[RunDir, Plan], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Tasks done, by a stand-in for the work that takes the task's name for its fate."""
    done: list[str] = []
    run, plan = planned

    def task(given: RunDir, stage: Stage, name: str, attempt: Path, identity: str, **_: object) -> None:
        assert given.root == run.root.resolve() and identity == plan.identity and attempt.is_dir()
        fate = os.environ.get(f"FATE_{name}")
        if fate == "fails":
            raise StageError(f"{name} failed")
        if fate == "full":
            raise OSError(28, "No space left on device")
        with run.claim(stage, name):
            done.append(name)
            run.write_marker(stage, name, [], [])

    monkeypatch.setattr(task_module, "run_task", task)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield done
    for number, handler in before.items():
        signal.signal(number, handler)


def test_all_that_is_missing_and_unclaimed_runs_in_order(
    planned: tuple[RunDir, Plan], work: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, plan = planned
    stage = plan.stage("it01/debate")
    with run.claim(stage, "00001"):
        assert run_stage(run, plan, stage, []) is None
        assert work == ["00000", "00002"] and all_attempts(run.attempts(stage, "00001")) == []
        failure = run_stage(run, plan, stage, ["00001"])
    assert isinstance(failure, RunBusyError) and "it01/debate 00001: another process is working on it" in str(failure)
    facts = all_attempts(run.attempts(stage, "00002"))[0].facts
    assert facts["node"] and facts["progress"] == 0 and "job" not in facts
    # One failure does not keep the others from running; the first is returned.
    for task in ("00000", "00001"):
        run.marker(stage, task).unlink(missing_ok=True)
    monkeypatch.setenv("FATE_00000", "fails")
    monkeypatch.setenv("FATE_00001", "full")
    run.marker(stage, "00002").unlink()
    work.clear()
    assert str(run_stage(run, plan, stage, [])) == "00000 failed" and work == ["00002"]
    monkeypatch.delenv("FATE_00000")
    failure = run_stage(run, plan, stage, [])
    assert failure is not None and failure.exit_code == 12 and "No space left" in str(failure)
    assert work == ["00002", "00000"], "what was done is not done again"


def test_stages_and_tasks_by_name_and_number(planned: tuple[RunDir, Plan]) -> None:
    _, plan = planned
    assert find_stage(plan, "it01/finetune") is find_stage(plan, "1/finetune") is plan.stage("it01/finetune")
    finetune, debate = plan.stage("it01/finetune"), plan.stage("it01/debate")
    assert find_tasks(finetune, ["3", "generator-0", "0"]) == ["critic-1", "generator-0"]
    assert find_tasks(debate, ["2", "00001"]) == ["00002", "00001"]
    assert find_tasks(debate, []) == []


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["nowhere", "it01/debate"], DataError, "nowhere: no planned run here; plan it with hpcmaf plan --write"),
        (["r", "debate"], UsageError, "debate: the plan has no such stage; it has it00/eval to it01/score"),
        (["r", "it02/debate"], UsageError, "it02/debate: the plan has no such stage"),
        (["r", "it01/debate", "3"], UsageError, "has no task 3; its tasks are 00000 to 00002, or"),
        (["r", "it01/merge", "1"], UsageError, "has no task 1; its tasks are all, or"),
        (["r", "it01/finetune", "critic-9"], UsageError, "are generator-0 to critic-1, or"),
    ],
)
@pytest.mark.usefixtures("planned")
def test_mistakes_are_one_line(
    words: list[str], kind: type[HpcmafError], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command, words)
    assert isinstance(result.exception, kind) and said in str(result.exception)
    assert "\n" not in str(result.exception)


@pytest.mark.usefixtures("planned")
def test_missing_inputs_are_said_once_with_their_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command, ["r", "1/merge"])
    assert result.exit_code == 8
    assert result.stderr.splitlines() == ["error: it01/merge: needs it01/debate 00000, which is not done; run it first"]
