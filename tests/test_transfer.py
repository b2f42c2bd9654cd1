"""Runs that train on one task and are evaluated on another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcmaf.errors import ConfigError
from tests.test_method import begin, play
from tests.test_methods import SMALL, poisoned, said


def test_transfer_trains_on_one_task_and_is_evaluated_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = poisoned(tmp_path / "other", "1")
    other = f"{{name: jsonl, source: '{source}'}}"
    done = play(tmp_path / "run", monkeypatch, *SMALL, "task.eval=2", f"evaluate_on={other}", say=said, iterations=1)
    train, held = (done.run.read_problems(split, done.plan) for split in ("train", "eval"))
    assert all(problem.id.startswith("arithmetic-") for problem in train) and len(train) == 24
    assert {problem.id for problem in held} == {"e0", "e1"}
    metrics = json.loads(done.run.metrics(1).read_text())
    assert (metrics["task"], metrics["trained_on"]) == ("jsonl", "arithmetic")
    assert "the expression below" not in done.requests["it01/eval"][0].messages[0]["content"]
    assert "the expression below" in done.requests["it01/debate"][0].messages[0]["content"]


def test_transfer_keys_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"evaluate_on\.train: unknown key"):
        begin(tmp_path / "run", monkeypatch, "evaluate_on={name: arithmetic, train: 3}")
    with pytest.raises(ConfigError, match="there is no task 'x'"):
        begin(tmp_path / "run", monkeypatch, "evaluate_on={name: x}")
