"""`hpcmaf grade`, from the command line's side."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hpcmaf.cli.grade import command
from hpcmaf.errors import DataError, UsageError


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(command, arguments, input=stdin)


def test_one_pair() -> None:
    assert run("--gold", r"\frac{1}{2}", "--answer", "0.5").output == "equivalent\n"
    result = run("--gold", "-5", "--answer", "5")
    assert (result.output, result.exit_code) == ("different\n", 0)


def test_whole_responses() -> None:
    arguments = ("--gold", "12", "--answer", "Adding these gives #### 12 apples")
    assert run(*arguments).output == "different\n"
    assert run(*arguments, "--extract", "number").output == "equivalent\n"
    assert run("--gold", "12", "--answer", "no idea", "--extract", "number").output == "different\n"


def test_lines_come_back_in_order_with_their_other_keys(tmp_path: Path) -> None:
    records = [
        {"id": index, "gold": str(index), "note": {"\u00e9": [1, None]}, "answer": f"{index + index % 2}.0"}
        for index in range(600)
    ]
    file = tmp_path / "some answers.jsonl"
    file.write_text("\n".join(json.dumps(record) for record in records))
    lines = [json.loads(line) for line in run("--jsonl", str(file)).output.splitlines()]
    assert lines == [{**record, "equivalent": record["id"] % 2 == 0} for record in records]
    assert [list(line) for line in lines[:1]] == [["id", "gold", "note", "answer", "equivalent"]]


def test_standard_input_numbers_nulls_and_blank_lines() -> None:
    stdin = '{"gold": 5, "answer": "5.0"}\n\n{"gold": "5", "answer": null}\n{"gold": 0.5, "answer": "1/2", "x": "\\ud800"}\n'
    verdicts = [json.loads(line)["equivalent"] for line in run("--jsonl", "-", stdin=stdin).output.splitlines()]
    assert verdicts == [True, False, True]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not JSON"),
        ("[1]", "not an object"),
        ('{"gold": "1"}', 'no "answer"'),
        ('{"answer": "1"}', 'no "gold"'),
        ('{"gold": ["1"], "answer": "1"}', '"gold" is neither text nor a number'),
        ('{"gold": true, "answer": "1"}', '"gold" is neither text nor a number'),
        ('{"gold": "1", "answer": ' + "9" * 5000 + "}", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_malformed_line_is_named_and_ends_it(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "bad.jsonl"
    good = '{"gold": "1", "answer": "1"}'
    file.write_text(f"{good}\n{good}\n{line}\n{good}\n")
    result = run("--jsonl", str(file))
    assert isinstance(result.exception, DataError)
    message = str(result.exception)
    assert f"{file}, line 3: " in message
    assert says in message
    assert "\n" not in message
    assert len(result.stdout.splitlines()) == 2


def test_a_file_that_is_not_text_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "binary.jsonl"
    file.write_bytes(b'{"gold": "\xff", "answer": "1"}\n')
    assert isinstance(run("--jsonl", str(file)).exception, DataError)
    missing = run("--jsonl", str(tmp_path / "missing.jsonl"))
    assert isinstance(missing.exception, DataError)
    assert "missing.jsonl" in str(missing.exception)


@pytest.mark.parametrize("arguments", [(), ("--gold", "1"), ("--answer", "1"), ("--jsonl", "x", "--gold", "1")])
def test_neither_or_both_is_refused(arguments: tuple[str, ...]) -> None:
    assert isinstance(run(*arguments).exception, UsageError)


def test_each_line_is_answered_before_the_next_is_sent() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "from hpcmaf.cli.grade import command; command()", "--jsonl", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        for answer, expected in (("0.5", True), ("0.4", False)):
            process.stdin.write(json.dumps({"gold": "1/2", "answer": answer}) + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["equivalent"] is expected
        process.stdin.close()
    assert process.returncode == 0
