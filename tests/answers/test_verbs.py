"""`hpcmaf grade` and `hpcmaf extract`, from the command line's side."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hpcmaf.cli import extract, grade
from hpcmaf.errors import DataError, UsageError


def run(*arguments: str, stdin: str | None = None, verb=grade) -> Result:
    return CliRunner().invoke(verb.command, arguments, input=stdin)


def lines(result: Result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_one_pair() -> None:
    assert run("--gold", r"\frac{1}{2}", "--answer", "0.5").output == "equivalent\n"
    result = run("--gold", "-5", "--answer", "5")
    assert (result.output, result.exit_code) == ("different\n", 0)


def test_graded_lines_come_back_in_order_with_their_other_keys(tmp_path: Path) -> None:
    records = [
        {"id": index, "gold": str(index), "note": {"\u00e9": [1, None]}, "answer": f"{index + index % 2}.0"}
        for index in range(600)
    ]
    file = tmp_path / "some answers.jsonl"
    file.write_text("\n".join(json.dumps(record) for record in records))
    graded = lines(run("--jsonl", str(file)))
    assert graded == [{**record, "equivalent": record["id"] % 2 == 0} for record in records]
    assert list(graded[0]) == ["id", "gold", "note", "answer", "equivalent"]


def test_standard_input_numbers_nulls_and_blank_lines() -> None:
    stdin = '{"gold": 5, "answer": "5.0"}\n\n{"gold": "5", "answer": null}\n{"gold": 0.5, "answer": "1/2", "x": "\\ud800"}\n'
    assert [line["equivalent"] for line in lines(run("--jsonl", "-", stdin=stdin))] == [True, False, True]


def test_extracted_lines_come_back_with_the_answer_that_would_vote(tmp_path: Path) -> None:
    rows = {
        '{"id": 1, "text": "The answer is 7."}': "7",
        '{"text": "I do not know."}': None,
        '{"text": null}': None,
        '{"text": 12}': "12",
        '{"text": "The answer is 7. So 8", "finish_reason": "length"}': "7",
        '{"text": "so 8", "finish_reason": "length"}': None,
    }
    file = tmp_path / "responses.jsonl"
    file.write_text("\n\n".join(rows))
    made = lines(run("--form", "number", "--jsonl", str(file), verb=extract))
    assert made == [{**json.loads(line), "answer": answer} for line, answer in rows.items()]


def test_ten_letters_from_standard_input() -> None:
    arguments = ("--form", "letter", "--letters", "ABCDEFGHIJ", "--jsonl", "-")
    assert lines(run(*arguments, stdin='{"text": "The answer is (J)."}\n', verb=extract))[0]["answer"] == "J"


BAD = [
    (grade, "{", "not JSON"),
    (grade, "[1]", "not an object"),
    (grade, '{"gold": "1"}', 'no "answer"'),
    (grade, '{"answer": "1"}', 'no "gold"'),
    (grade, '{"gold": ["1"], "answer": "1"}', '"gold" is neither text nor a number'),
    (grade, '{"gold": true, "answer": "1"}', '"gold" is neither text nor a number'),
    (grade, '{"gold": "1", "answer": ' + "9" * 5000 + "}", "not JSON"),
    (grade, "[" * 100_000, "not JSON"),
    (grade, '{"gold": "\udcff", "answer": "1"}', "not UTF-8"),
    (extract, "{", "not JSON"),
    (extract, "{}", 'no "text"'),
    (extract, '{"text": [1]}', '"text" is neither text nor'),
]


@pytest.mark.parametrize(("verb", "line", "says"), BAD)
def test_a_malformed_line_is_named_and_ends_it(tmp_path: Path, verb, line: str, says: str) -> None:
    good, form = '{"gold": "1", "answer": "1", "text": "1"}', ("--form", "text") if verb is extract else ()
    file = tmp_path / "bad.jsonl"
    file.write_text(f"{good}\n{good}\n{line}\n{good}\n", errors="surrogateescape")
    result = run(*form, "--jsonl", str(file), verb=verb)
    assert isinstance(result.exception, DataError)
    message = str(result.exception)
    assert f"{file}, line 3: " in message and says in message and "\n" not in message
    assert len(lines(result)) == 2
    missing = run(*form, "--jsonl", str(tmp_path / "missing.jsonl"), verb=verb).exception
    assert isinstance(missing, DataError) and "missing.jsonl" in str(missing)


LETTERS = ("--form", "letter", "--letters", "a-z", "--jsonl", "-")


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        *((grade, some) for some in ((), ("--gold", "1"), ("--answer", "1"), ("--jsonl", "x", "--gold", "1"))),
        (extract, LETTERS),
    ],
)
def test_neither_or_both_and_letters_that_are_none_are_refused(verb, arguments: tuple[str, ...]) -> None:
    assert isinstance(run(*arguments, verb=verb).exception, UsageError)


def test_each_line_is_answered_before_the_next_is_sent() -> None:
    command = [sys.executable, "-c", "from hpcmaf.cli.grade import command; command()", "--jsonl", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for answer, expected in (("0.5", True), ("0.4", False)):
            print(json.dumps({"gold": "1/2", "answer": answer}), file=process.stdin, flush=True)
            assert json.loads(process.stdout.readline())["equivalent"] is expected
        process.stdin.close()
        assert process.wait() == 0
