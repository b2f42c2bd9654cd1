"""`hpcmaf extract`, from the command line's side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcmaf.cli.extract import command
from hpcmaf.errors import DataError, UsageError


def test_lines_come_back_with_the_answer_that_would_vote(tmp_path: Path) -> None:
    file = tmp_path / "responses.jsonl"
    lines = [
        {"id": 1, "text": "The answer is 7."},
        {"text": "I do not know."},
        {"text": None},
        {"text": 12},
        {"text": "The answer is 7. So 8", "finish_reason": "length"},
        {"text": "so 8", "finish_reason": "length"},
    ]
    file.write_text("\n\n".join(map(json.dumps, lines)))
    output = CliRunner().invoke(command, ["--form", "number", "--jsonl", str(file)]).output
    answers = ["7", None, None, "12", "7", None]
    made = [json.loads(line) for line in output.splitlines()]
    assert made == [{**line, "answer": answer} for line, answer in zip(lines, answers, strict=True)]


def test_ten_letters_from_standard_input() -> None:
    arguments = ["--form", "letter", "--letters", "ABCDEFGHIJ", "--jsonl", "-"]
    result = CliRunner().invoke(command, arguments, input='{"text": "The answer is (J)."}\n')
    assert json.loads(result.output)["answer"] == "J"


@pytest.mark.parametrize(("line", "says"), [("{", "not JSON"), ("{}", 'no "text"'), ('{"text": [1]}', "neither text nor")])
def test_a_malformed_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(f'{{"text": "1"}}\n{line}\n')
    error = CliRunner().invoke(command, ["--form", "text", "--jsonl", str(file)]).exception
    assert isinstance(error, DataError)
    assert f"{file}, line 2: " in str(error)
    assert says in str(error)


def test_a_missing_file_and_letters_that_are_none() -> None:
    missing = CliRunner().invoke(command, ["--form", "text", "--jsonl", "missing.jsonl"]).exception
    assert isinstance(missing, DataError)
    wrong = CliRunner().invoke(command, ["--form", "letter", "--letters", "a-z", "--jsonl", "-"]).exception
    assert isinstance(wrong, UsageError)
