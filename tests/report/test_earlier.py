"""Run directories whose metrics.json is of version 1, written by that version, and what is read out of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcmaf.report.recipes import recipe_tables
from hpcmaf.report.records import read_run
from hpcmaf.run.directory import RunDir
from tests.report.conftest import load, paired_test, report_of

EARLIER = Path(__file__).with_name("earlier")
BY_POSITION = {"answer": "one_answer", "vote@1": "majority", "vote@M": "debate"}


@pytest.mark.parametrize("method", ["maft", "star"])
def test_measures_are_what_their_positions_said(method: str) -> None:
    read = read_run(EARLIER / method)
    assert read.missing == [] and [iteration.number for iteration in read.evaluated] == [0, 1]
    shapes = {"maft": {"answer": (1, 1), "vote@1": (3, 1), "vote@M": (3, 2)}, "star": {"answer": (1, 1)}}[method]
    for iteration in read.evaluated:
        old = load(RunDir(EARLIER / method).metrics(iteration.number))
        assert {name: (one["agents"], one["rounds"]) for name, one in iteration.metrics["accuracy"].items()} == shapes
        for name in shapes:
            assert iteration.accuracy(name)["value"] == old["accuracy"][BY_POSITION[name]]["value"]
            assert iteration.metrics["scores"][name] == old["scores"][BY_POSITION[name]]
    assert read.final.own == list(shapes)[-1]


def test_a_report_of_them() -> None:
    report = report_of(RunDir(EARLIER / "maft"), RunDir(EARLIER / "star"), baseline="debate")
    rows = {row.group.line: row for row in report.rows}
    base, star = (load(EARLIER / path / "metrics.json")["scores"] for path in ("maft/it00", "star/it01"))
    sides = [
        {problem: mark == "1" for problem, mark in zip(scores["problem_ids"], scores[name], strict=True)}
        for scores, name in ((base, "debate"), (star, "one_answer"))
    ]
    result = rows["star"].tested.result
    assert (result.gained, result.lost, result.p) == paired_test(*sides)
    assert "(critic-0: 4, generator-1: 7)" in report.warnings[0]
    table = next(table for table in recipe_tables(report.groups[0]) if table.title.endswith("learned from"))
    assert table.rows[0][:3] == ("1", "generator-0", "11")
