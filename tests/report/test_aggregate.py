"""Reports of whole, several and broken runs."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcmaf.cli.aggregate import command
from hpcmaf.errors import DataError, PlanChangedError
from hpcmaf.files.publish import write_json
from hpcmaf.report.report import aggregate
from tests.report.conftest import MakeRun, groups_of, load, report_of

TEXTS = ("report.md", "report.csv", "report.json", "report.tex", "report.html")
PLOTS = ("accuracy", "diversity")


def test_one_run_figures_are_those_of_its_metrics(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("one", upto=2, planned=2)
    report = aggregate([run.root], tmp_path / "out")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/report.csv").read_text())))
    assert [(row["iteration"], row["measure"]) for row in rows] == [
        (str(t), measure) for t in range(3) for measure in ("answer", "vote@1", "vote@M")
    ]
    for row in rows:
        metrics = load(run.metrics(int(row["iteration"])))
        figure = metrics["accuracy"][row["measure"]]
        assert (float(row["accuracy"]), float(row["se"])) == (figure["value"], figure["se"])
        assert int(row["correct"]) == metrics["scores"][row["measure"]].count("1")
        shown = f"{100 * figure['value']:.2f} ± {100 * figure['se']:.2f}"
        assert shown in report.text and shown in (tmp_path / "out/report.md").read_text()
    assert report.missing == []
    assert report.title == "arithmetic · tiny · maft · 3 agents × 2 rounds"


def test_costs_are_ledger_sums(make_run: MakeRun) -> None:
    run = make_run("one", upto=1)
    report = report_of(run)
    cost = report.json()["runs"][0]["iterations"][1]["cost"]
    rows = load(run.ledger(1))["rows"]
    for name in ("prompt_tokens", "completion_tokens", "training_tokens", "wall_seconds", "calls"):
        assert cost[name] == sum(row[name] for row in rows) > 0
    assert cost["peak_memory_bytes"] == 2 * 2**30  # the highest, not the sum
    assert f"{cost['prompt_tokens']:,}" in report.text


def test_same_runs_same_bytes_in_any_order_and_place(make_run: MakeRun, tmp_path: Path) -> None:
    roots = [make_run(f"s{seed}", seed=seed, upto=1).root for seed in (2, 0, 1)]
    aggregate(roots, tmp_path / "a")
    aggregate([*reversed(roots), roots[0]], tmp_path / "b")  # named twice, counted once
    copied = tmp_path / "elsewhere" / "copy"
    shutil.copytree(roots[0].parent, copied)
    aggregate([copied / root.name for root in roots], tmp_path / "c")
    for name in TEXTS:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()
    left = {path.name for path in (tmp_path / "a").iterdir()}
    assert left == {*TEXTS, *(plot + suffix for plot in PLOTS for suffix in (".png", ".svg"))}


def test_seeds_form_a_group_and_recipes_do_not(make_run: MakeRun) -> None:
    runs = [make_run(f"s{seed}", seed=seed, upto=1) for seed in range(3)]
    other = make_run("other", upto=1, selection={"mix": "cap"}, method="maft-no-critic")
    report = report_of(*runs, other)
    assert [(group.label, len(group.runs)) for group in report.groups] == [("maft", 3), ("maft-no-critic", 1)]
    values = [load(run.metrics(1))["accuracy"]["vote@M"]["value"] for run in runs]
    point = report.groups[0].point(1)
    assert point is not None
    assert (point["value"], point["low"], point["high"]) == (pytest.approx(sum(values) / 3), min(values), max(values))
    assert f"[{100 * min(values):.2f}, {100 * max(values):.2f}]" in report.markdown()
    assert report.title == "arithmetic · tiny · 3 agents × 2 rounds"


def test_equal_labels_are_told_apart_by_what_differs(make_run: MakeRun) -> None:
    exact, cap = make_run("a", upto=0), make_run("b", upto=0, selection={"mix": "cap"})
    five = make_run("c", upto=0, debate={"agents": 5, "rounds": 3})
    labels = [group.label for group in groups_of(exact, cap)]
    assert labels == ["maft · mix=cap", "maft · mix=exact"]
    # An agent's own setting is not the society's.
    mixed = make_run("d", upto=0, agents={"2": {"training": {"epochs": 9}}})
    labels = [group.label for group in groups_of(exact, mixed)]
    assert labels == ["maft", "maft · agent 2 epochs=9"]
    labels = [group.label for group in groups_of(exact, five)]
    assert labels == ["maft · 3 agents × 2 rounds", "maft · 5 agents × 3 rounds"]


def test_runs_of_one_name_are_told_apart(make_run: MakeRun, tmp_path: Path) -> None:
    roots = [make_run("run", seed=i, upto=0, folder=tmp_path / name / "x").root for i, name in enumerate("ab")]
    assert [run.name for run in aggregate(roots, tmp_path / "out").runs] == ["a/x/run", "b/x/run"]


def test_says_what_an_unfinished_or_damaged_run_lacks(make_run: MakeRun) -> None:
    run = make_run("half", upto=4, planned=7)
    run.metrics(0).unlink()
    run.metrics(2).write_text('{"schema": "hpcmaf-me')
    with pytest.raises(json.JSONDecodeError) as torn:
        load(run.metrics(2))
    write_json(run.metrics(3), load(run.metrics(3)) | {"schema": "hpcmaf-metrics/9"})
    run.ledger(1).unlink()
    run.ledger(4).write_text("[]")
    report = report_of(run)
    assert [iteration.number for iteration in report.runs[0].evaluated] == [1, 4]
    assert report.missing == [
        "half: it01/ledger.json: missing; no costs",
        f"half: it02/metrics.json: damaged ({torn.value}); iteration 2 is left out",
        "half: it03/metrics.json: damaged (Value error, schema 'hpcmaf-metrics/9' instead of 'hpcmaf-metrics/2'); "
        "iteration 3 is left out",
        "half: it04/ledger.json: not a JSON object; no costs",
        "half: iterations 0, 5, 6, 7: not evaluated (yet)",
    ]
    for line in report.missing:
        assert line in report.text and line in report.markdown()
    assert report.findings == []  # there is no base to compare with


def test_a_run_that_has_just_begun(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("new", upto=0, planned=2)
    shutil.rmtree(run.iteration(0))
    report = aggregate([run.root], tmp_path / "out")
    assert report.missing == ["new: iterations 0, 1, 2: not evaluated (yet)"]
    assert (tmp_path / "out/report.html").exists() and not (tmp_path / "out/accuracy.png").exists()


def test_what_it_refuses(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run", upto=0).root
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    make_run("torn", upto=0, folder=tmp_path).plan.write_text("{}")
    for path, out, message in (
        (tmp_path / "torn", "out", "torn/plan.json: damaged"),
        (tmp_path / "gone", "out", "gone: no such folder"),
        (tmp_path / "empty", "out", "empty: not a run directory"),
        (tmp_path / "file", "out", "file: no such folder"),
        (run, "file", "a file is in the way"),
    ):
        with pytest.raises((DataError, PlanChangedError), match=message) as caught:
            aggregate([path], tmp_path / out)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_prints_the_table_and_writes_the_files(make_run: MakeRun, tmp_path: Path, monkeypatch) -> None:
    """Of runs by name and of copies by path."""
    make_run("run with spaces", upto=1, planned=2)
    make_run("copied", seed=1, upto=1, folder=tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["run with spaces", "copied", "--out", "my report"]
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    assert result.exit_code == 0
    csv_text = Path("my report/report.csv").read_text()
    assert all(csv_text.count(f"\n{name},") == 6 for name in ("run with spaces", "copied"))
    assert "maft: accuracy over 2 runs" in result.stdout
    assert "iterations 2: not evaluated (yet)" in result.stdout
    assert "\x1b" not in result.stdout and "│" not in result.stdout  # not a terminal: plain columns
    assert "report.html" in result.stderr
    assert (tmp_path / "my report" / "report.md").is_file()
