"""Prepared folders: same source, same bytes; changes and mixtures are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcmaf.cli.data import command
from hpcmaf.errors import DataError
from hpcmaf.files.publish import file_sha256, manifest_path, read_manifest
from hpcmaf.tasks import get_task
from tests.tasks.conftest import gsm8k_rows, lay


@pytest.fixture
def folder(gsm8k_folder, tmp_path) -> Path:
    out = tmp_path / "prepared"
    get_task("gsm8k").prepare(str(gsm8k_folder), out)
    return out


def test_prepared_and_raw_draw_the_same(folder, gsm8k_folder) -> None:
    task = get_task("gsm8k")
    assert task.splits(folder, 20, 8, 5) == task.splits(gsm8k_folder, 20, 8, 5)
    # One file alone is one pool.
    assert {p.id.split("-")[1] for p in task.splits(folder / "train.jsonl", 5, 5, 0).eval} == {"train"}


def test_manifest_records_source_and_counts(folder, gsm8k_folder) -> None:
    row = {"id": "gsm8k-test-00003", "question": "test story 3: how many?", "gold": "1003", "meta": {}}
    assert json.loads((folder / "test.jsonl").read_text().splitlines()[3]) == row
    manifest = read_manifest(folder / "train.jsonl")
    assert manifest.rows == 20 and manifest.layout == "hpcmaf-problems/1"
    assert manifest.sha256 == file_sha256(folder / "train.jsonl")
    assert manifest.extra["task"] == "gsm8k" and manifest.extra["source"] == str(gsm8k_folder)
    assert manifest.extra["counts"]["problems"] == 20
    lay(gsm8k_folder, {"test.jsonl": gsm8k_rows("test", 9)})
    get_task("gsm8k").prepare(str(gsm8k_folder), folder)
    assert read_manifest(folder / "test.jsonl").rows == 9


@pytest.mark.parametrize(
    ("spoil", "task", "says"),
    [
        (lambda path: path.write_text("{}"), "gsm8k", r"test\.jsonl: missing, or changed since it was prepared; del"),
        (lambda path: path.unlink(), "gsm8k", r"test\.jsonl: missing, or changed since it was prepared; delete"),
        # A kill between two files must not turn a training split into one pool.
        (lambda path: manifest_path(path).unlink(), "gsm8k", r"test\.jsonl: missing beside train\.jsonl; run 'hpcmaf"),
        (lambda path: None, "math", "holds problems of gsm8k, not of math"),
    ],
)
def test_a_folder_that_is_not_as_it_was_prepared_is_refused(folder, spoil, task, says) -> None:
    spoil(folder / "test.jsonl")
    with pytest.raises(DataError, match=says):
        get_task(task).splits(folder, 1, 1, 0)


def test_files_of_another_making_are_never_overwritten(folder, gsm8k_folder, tmp_path) -> None:
    other = lay(tmp_path, {"train.jsonl": [{"problem": "1?", "answer": "1"}]}) / "train.jsonl"
    second = lay(tmp_path, {"second.jsonl": gsm8k_rows("test", 4)}) / "second.jsonl"
    before = {path: path.read_bytes() for where in (folder, gsm8k_folder) for path in where.iterdir()}
    tried = [("math", other, folder), ("gsm8k", second, folder), ("gsm8k", gsm8k_folder, gsm8k_folder)]
    for task, source, out in tried:
        says = f"no earlier output of 'hpcmaf data prepare {task}'.*, or prepare all splits from one folder"
        with pytest.raises(DataError, match=says):
            get_task(task).prepare(str(source), out)
    assert before == {path: path.read_bytes() for where in (folder, gsm8k_folder) for path in where.iterdir()}


def test_odd_characters_survive(tmp_path) -> None:
    questions = ["nul \x00", "lone \ud800", "line\u2028separator", "\u200f\u05e9", "x\x85y"]
    source = lay(tmp_path, {"own.jsonl": [{"question": q, "answer": q} for q in questions]}) / "own.jsonl"
    get_task("jsonl").prepare(str(source), tmp_path / "out")
    splits = get_task("jsonl").splits(tmp_path / "out", 1, 4, 0)
    assert sorted(p.question for p in splits.train + splits.eval) == sorted(questions)
    assert all(p.gold == p.question for p in splits.eval)


def test_command_writes_and_reports(gsm8k_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command, ["prepare", "gsm8k", "--source", str(gsm8k_folder)])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["train"]["problems"] == 20
    assert "prepared data/gsm8k" in result.stderr
    assert len((tmp_path / "data/gsm8k/test.jsonl").read_text().splitlines()) == 8
