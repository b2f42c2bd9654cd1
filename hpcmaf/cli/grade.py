"""``hpcmaf grade``: are two answers the same answer?"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from hpcmaf.errors import DataError, UsageError
from hpcmaf.tasks.grader import Grader
from hpcmaf.tasks.problems import Problem


@click.command("grade")
@click.option("--gold", metavar="ANSWER", help="The right answer.")
@click.option("--answer", metavar="ANSWER", help="The answer to grade.")
@click.option(
    "--jsonl", metavar="FILE", help='Grade lines with "gold" and "answer"; "-" reads standard input. Writes each back.'
)
@click.option(
    "--grader",
    "name",
    default="",
    metavar="NAME",
    help="A recipe's task.grader, or a task with its own; lines may then have question, id and meta of their problem.",
)
def command(gold: str | None, answer: str | None, jsonl: str | None, name: str) -> None:
    """Print `equivalent` or `different` for a pair of answers, or grade a file.

    \b
    hpcmaf grade --gold '\\frac{1}{2}' --answer 0.5
    hpcmaf grade --jsonl answers.jsonl > graded.jsonl
    """
    grader = Grader(name)
    grader.check()
    if jsonl is not None:
        if gold is not None or answer is not None:
            raise UsageError("grade takes either --jsonl or --gold with --answer, not both: leave one out")
        for record in read_records(jsonl, ("gold", "answer")):
            write_record(record | {"equivalent": _right(grader, record)})
    elif gold is None or answer is None:
        raise UsageError("grade needs --gold and --answer, or --jsonl FILE: give one of the two")
    else:
        click.echo("equivalent" if _right(grader, {"gold": gold, "answer": answer}) else "different")


def _right(grader: Grader, record: dict[str, Any]) -> bool:
    """Whether a line's answer is its gold one: a number is its text, ``null`` no answer."""
    gold, answer = (None if record[key] is None else str(record[key]) for key in ("gold", "answer"))
    meta = record["meta"] if isinstance(record.get("meta"), dict) else {}
    return grader.right(answer, Problem(str(record.get("id", "")), str(record.get("question", "")), gold, meta))


def read_records(name: str, keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Lines of a file, or of standard input for ``-``: objects that have ``keys``, each text, a number or null.

    Raises
    ------
    DataError
        One is not; the message names file and line.
    """
    try:
        with click.open_file(name, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parse(line, f"{'standard input' if name == '-' else name}, line {number}", keys)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}): check the path") from None


def write_record(record: dict[str, Any]) -> None:
    """Write a line at once, in ASCII alone: lone surrogates occur in answers, and no stream takes them."""
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def _parse(line: bytes, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
    needed = " and ".join(f'"{key}"' for key in keys)
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8 text or a number too long"
        raise DataError(f"{where}: not JSON ({reason}): write one object per line") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: not an object: write one with {needed}")
    for key in keys:
        if key not in record:
            raise DataError(f'{where}: no "{key}": every line needs {needed}')
        if isinstance(record[key], bool) or not isinstance(record[key], str | int | float | None):
            raise DataError(f'{where}: "{key}" is neither text nor a number: write it as a string')
    return record
