"""Trained on one task, evaluated on another: tested beside those trained on it, and shown as a table of their own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from hpcmaf.config.profile import load_profile
from hpcmaf.evaluation.significance import holm, outcomes
from hpcmaf.launch.prepare import plan_run
from hpcmaf.report.compare import against, find_baseline
from hpcmaf.report.groups import group_runs
from hpcmaf.report.records import read_run
from hpcmaf.report.report import aggregate
from hpcmaf.report.table import estimate
from hpcmaf.run.directory import RunDir
from hpcmaf.study.plan import load_study
from tests.report.conftest import MakeRun, groups_of, paired_test, report_of

WORDS, TO_WORDS, TO_ARITHMETIC = (
    {"task": {"name": "words"}},
    {"evaluate_on": {"name": "words"}},
    {"task": {"name": "words"}, "evaluate_on": {"name": "arithmetic"}},
)


@pytest.fixture
def runs(make_run: MakeRun) -> dict[str, RunDir]:
    """Both directions, with and without training, in two seeds."""
    kinds = {
        "debate": {"method": "debate", "upto": 0},
        "debate-on-words": {"method": "debate", "upto": 0, "questions": "w"} | TO_WORDS,
        "maft": {"gain": 0.3},
        "maft-to-words": {"questions": "w"} | TO_WORDS,
        "maft-of-words": {"questions": "w", "gain": 0.4} | WORDS,
        "maft-of-words-to-arithmetic": {"gain": 0.2} | TO_ARITHMETIC,
    }
    return {
        f"{name}-{seed}": make_run(f"{name}-{seed}", seed=seed, **kind)
        for name, kind in kinds.items()
        for seed in (0, 1)
    }


def scores(run: RunDir, t: int) -> dict[str, bool]:
    return outcomes(json.loads(run.metrics(t).read_text()), "vote@M")


def test_trained_elsewhere_is_tested_on_the_same_problems(runs: dict[str, RunDir]) -> None:
    report = report_of(*runs.values(), baseline="maft")
    found = {(one.group.place[0], one.group.line): one for one in report.tested}
    assert set(found) == {
        ("arithmetic", "debate"),
        ("arithmetic", "maft · trained on words"),
        ("words", "debate"),
        ("words", "maft · trained on arithmetic"),
    }
    other = found["arithmetic", "maft · trained on words"]
    assert other.result is not None and other.result.pairs == 2
    tests = [
        paired_test(scores(runs[f"maft-{seed}"], 2), scores(runs[f"maft-of-words-to-arithmetic-{seed}"], 2))
        for seed in (0, 1)
    ]
    assert (other.result.gained, other.result.lost) == (sum(t.b_only for t in tests), sum(t.a_only for t in tests))
    family = [one for one in report.tested if one.group.place[0] == "arithmetic"]
    assert [one.p_holm for one in family] == holm([one.result.p for one in family if one.result])


def test_every_form_names_what_each_was_trained_on(runs: dict[str, RunDir], tmp_path: Path) -> None:
    out = tmp_path / "report"
    report = aggregate([run.root for run in runs.values()], out, baseline="debate")
    transfer, _ = report.method_tables()
    assert transfer.title == "Methods: tiny"
    assert transfer.header == ("method", "trained on", "arithmetic", "words")
    assert [row[:2] for row in transfer.rows] == [("debate", "–"), ("maft", "arithmetic"), ("maft", "words")]
    shown = {row.group.runs[0].name: estimate(row.point) for row in report.rows}
    cells = [tuple(cell.removesuffix("*") for cell in row[2:]) for row in transfer.rows]
    assert cells[1] == (shown["maft-0"], shown["maft-to-words-0"])
    assert cells[2] == (shown["maft-of-words-to-arithmetic-0"], shown["maft-of-words-0"])
    assert len(set(transfer.rows[1][2:] + transfer.rows[2][2:])) == 4
    assert "## Methods: tiny" in (out / "report.md").read_text()
    assert "Methods: tiny" in (out / "report.html").read_text()
    assert "maft & words & " in (out / "report.tex").read_text()
    with (out / "report.csv").open() as file:
        facts = {row["run"]: (row["trained_on"], row["evaluated_on"]) for row in csv.DictReader(file)}
    assert facts["maft-of-words-to-arithmetic-1"] == ("words", "arithmetic")
    assert facts["debate-on-words-0"] == ("", "words")


def test_where_only_a_transfer_was_evaluated_it_is_the_baseline(make_run: MakeRun) -> None:
    kinds = [{}, TO_WORDS, {"method": "star"}, {"method": "star"} | TO_WORDS]
    groups = group_runs([read_run(make_run(str(i), **kind).root) for i, kind in enumerate(kinds)])
    rows = against(find_baseline("maft", groups), groups)
    assert {(row.group.place[0], row.group.line) for row in rows if row.result} == {
        ("arithmetic", "star"),
        ("words", "star · trained on arithmetic"),
    }


def test_problems_of_the_same_ids_are_told_apart_by_their_digest(make_run: MakeRun) -> None:
    runs = make_run("a"), make_run("b", questions="2", **TO_ARITHMETIC)
    groups = groups_of(*runs)
    (row,) = against(find_baseline("a", groups), groups)
    assert row.result is None and row.fault == "b and a have no two iterations on the same problems"


def test_the_shipped_study_asks_all_the_same_problems(tmp_path: Path) -> None:
    """Wherever a run was trained, its evaluation problems are those of the others of that task and seed."""
    study, profile = load_study("transfer-micro", root=tmp_path), load_profile()
    digests: dict[tuple[str, int], set[str]] = {}
    for entry in study.runs:
        plan, _ = plan_run(entry.run, entry.recipe, profile)
        place = (entry.recipe.evaluation.name, entry.recipe.seed)
        digests.setdefault(place, set()).add(plan.problems["eval"]["sha256"])
    assert {task for task, _ in digests} == {"arithmetic", "words"}
    assert all(len(found) == 1 for found in digests.values())
