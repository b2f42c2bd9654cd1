"""Tables of what debates do and of what agents learned from, of whatever version the metrics are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcmaf.files.publish import write_json
from hpcmaf.report.recipes import diversity_table, learned_table, recipe_tables
from hpcmaf.report.records import read_run
from hpcmaf.report.report import aggregate
from hpcmaf.run.directory import RunDir
from tests.report.conftest import MakeRun, groups_of, load, paired_test, report_of


def test_measured_diversity_joins_the_table(make_run: MakeRun) -> None:
    run = make_run("m", upto=1)
    measures = {"embedding": {"value": 0.25, "se": 0.01, "problems": 9}, "kl_base": None}
    for t in (0, 1):
        value = {"schema": "hpcmaf-diversity/1", "iteration": t, "problems": 9, "encoder": None, "measures": measures}
        write_json(run.diversity(t), value)
    (group,) = groups_of(run)
    table = diversity_table(group)
    assert table.header == ("iteration", "1 − consensus", "embedding")
    assert table.rows[1][2] == "0.2500 ± 0.0100"
    write_json(run.diversity(1), value | {"measures": {"embedding": {"value": "x"}}})
    read = read_run(run.root)
    assert len(read.missing) == 1 and read.missing[0].startswith("it01/diversity.json: damaged (measures.embedding")


def test_a_round_that_lacks_problems_is_damage(make_run: MakeRun) -> None:
    run = make_run("a", upto=0)
    metrics = dict(read_run(run.root).evaluated[0].metrics or {})
    write_json(run.metrics(0), metrics | {"scores": metrics["scores"] | {"vote@1": metrics["scores"]["vote@1"][:-1]}})
    assert "scores and number of problems do not fit" in read_run(run.root).missing[0]


def learned_from(run: RunDir, t: int, agent: str, **counts: float | None) -> None:
    metrics = json.loads(run.metrics(t).read_text())
    metrics["selection"]["datasets"][agent] = counts
    write_json(run.metrics(t), metrics)


FULL = {"kept": 41, "kept_positives": 31, "kept_negatives": 10, "realised_w": 10 / 41, "cut_off": 7} | {
    "samples": 39,
    "dropped_too_long": 2,
}


def test_every_form_of_the_report_has_what_agents_learned_and_what_debates_came_to(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run("m", upto=1)
    learned_from(run, 1, "critic-2", **FULL)
    metrics = json.loads(run.metrics(1).read_text())
    metrics["selection"]["health"] |= {"cut_off": 0.375, "tokens_per_answer": 4321.0}
    write_json(run.metrics(1), metrics)
    aggregate([run.root], tmp_path / "out")
    markdown, page = ((tmp_path / "out" / name).read_text() for name in ("report.md", "report.html"))
    shown = ["1", "critic-2", "41", "31", "10", "0.24", "2", "7", "39"]
    assert f"| {' | '.join(shown)} |" in markdown and "| 1 | 37.5% |" in markdown
    assert "".join(f"<td>{cell}</td>" for cell in shown[1:]) in page and "<td>37.5%</td>" in page
    for text in (markdown, page):
        assert "4,321" in text and "m: more than 20.0% of texts cut off (iteration 1: 37.5%)" in text
    (told,) = json.loads((tmp_path / "out/report.json").read_text())["runs"]
    assert told["iterations"][1]["metrics"]["selection"]["datasets"]["critic-2"] == FULL


def test_an_earlier_version_has_dashes(make_run: MakeRun) -> None:
    runs = [make_run(f"s{seed}", seed=seed, upto=1) for seed in (0, 1)]
    for run, kept in zip(runs, (30, 41), strict=True):
        learned_from(run, 1, "generator-0", kept=kept, kept_positives=kept, kept_negatives=0, realised_w=0.0)
    (group,) = groups_of(*runs)
    table = learned_table(group)
    assert table.rows[0] == ("1", "generator-0", "35.5", "35.5", "0.0", "0.00", "–", "–", "–")
    assert [row[1] for row in table.rows] == [f"{role}-{n}" for role in ("generator", "critic") for n in range(3)]
    assert "Mean over 2 runs." in table.note


def test_who_is_not_trained_learns_from_nothing(make_run: MakeRun) -> None:
    """Selection makes critics' sets also where generators alone are trained."""
    runs = make_run("m", upto=1, method="maft-no-critic"), make_run("d", upto=0, method="debate")
    tables = {group.label: learned_table(group) for group in groups_of(*runs)}
    assert [row[1] for row in tables["maft-no-critic"].rows] == ["generator-0", "generator-1", "generator-2"]
    assert tables["debate"].rows == ()


@pytest.mark.parametrize(("counts", "few"), [({"kept": 9}, "9"), ({"kept": 40, "samples": 0}, "none")])
def test_a_warning_where_there_was_little_to_learn_from(
    make_run: MakeRun, tmp_path: Path, counts: dict, few: str
) -> None:
    run = make_run("m", upto=2)
    for t in (1, 2):
        for agent in [f"{role}-{n}" for role in ("generator", "critic") for n in range(3)]:
            learned_from(run, t, agent, **FULL)
    assert report_of(run).warnings == []
    learned_from(run, 2, "critic-1", **counts)
    report = aggregate([run.root], tmp_path / "out")
    (line,) = report.warnings
    assert line.startswith("m: iteration 2: ") and "fewer than 10" in line and f"critic-1: {few}" in line
    assert "raise task.train" in line and "\n" not in line
    for name in ("report.md", "report.html", "report.json"):
        assert line in (tmp_path / "out" / name).read_text()
    assert line in report.text


def test_star_without_hints_says_so_wherever_its_number_stands(make_run: MakeRun, tmp_path: Path) -> None:
    compact = {"name": "arithmetic", "prompts": "compact"}
    star, maft = make_run("s", upto=1, method="star", task=compact), make_run("m", upto=1, task=compact)
    report = aggregate([star.root, maft.root], tmp_path / "out", baseline="star")
    assert {group.line for group in report.groups} == {"maft", "star (no hint)"}
    assert "(no hint): compact prompts have no words for gold as a hint" in report.text
    for name in ("report.md", "report.html", "report.tex"):
        assert "star (no hint)" in (tmp_path / "out" / name).read_text()
    assert "(no hint): compact prompts" in (tmp_path / "out" / "report.tex").read_text()
    assert "star (no hint)" in report_of(star).title
    hinted = make_run("h", upto=1, method="star")
    assert "no hint" not in report_of(hinted, make_run("n", upto=1)).text


EARLIER = Path(__file__).with_name("earlier")


def test_a_report_of_runs_of_an_earlier_version() -> None:
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
    health = next(table for table in recipe_tables(report.groups[0]) if table.title.endswith("health"))
    shares = (f"{report.groups[0].runs[0].at(0).metrics[name]:.1%}" for name in ("unparsable", "tied"))
    assert health.rows[0] == ("0, evaluation", "–", *shares, "–", "–") and report.missing == []
