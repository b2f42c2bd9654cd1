"""Recipes against a baseline: who is paired with whom, and what is said where nobody can be."""

from __future__ import annotations

import pytest

from hpcmaf.errors import UsageError
from hpcmaf.evaluation.significance import outcomes
from hpcmaf.files.publish import write_json
from hpcmaf.report.compare import against, find_baseline
from hpcmaf.run.directory import RunDir
from tests.report.conftest import MakeRun, groups_of, load, paired_test, report_of


def test_runs_are_paired_by_seed(make_run: MakeRun) -> None:
    ours = [make_run(f"m{seed}", seed=seed, upto=2, gain=0.4) for seed in (0, 1)]
    theirs = [make_run(f"d{seed}", seed=seed, upto=0, method="debate") for seed in (1, 0, 2)]
    groups = groups_of(*ours, *theirs)
    (row,) = against(find_baseline("debate", groups), groups)
    tests = [
        paired_test(outcomes(load(theirs[at].metrics(0)), "vote@M"), outcomes(load(run.metrics(2)), "vote@M"))
        for run, at in zip(ours, (1, 0), strict=True)
    ]
    assert (row.facts["iteration"], row.facts["baseline_iteration"], row.result.pairs) == (2, 0, 2)
    assert (row.result.gained, row.result.lost) == (sum(t.b_only for t in tests), sum(t.a_only for t in tests))
    assert row.p_holm == row.result.p


def test_what_trains_nobody_is_held_against_the_last(make_run: MakeRun) -> None:
    trained, short = make_run("a", upto=3, gain=0.4), make_run("s", upto=2, method="star")
    untrained = make_run("d", upto=0, method="debate")
    groups = groups_of(trained, short, untrained)
    rows = against(find_baseline("maft", groups), groups)
    assert {row.group.line: (row.facts["iteration"], row.facts["baseline_iteration"]) for row in rows} == {
        "debate": (0, 3),
        "star": (2, 2),
    }
    (debate,) = (row.result for row in rows if row.group.line == "debate")
    last, plain = (outcomes(load(run.metrics(t)), "vote@M") for run, t in ((trained, 3), (untrained, 0)))
    assert (debate.gained, debate.lost, debate.p) == paired_test(last, plain)
    assert rows[0].text == "debate, iteration 0, against maft, iteration 3"
    assert rows[1].text == "star, iteration 2, against maft"


def test_other_problems_are_no_pair(make_run: MakeRun) -> None:
    a, b = make_run("a", upto=1), make_run("b", upto=1, method="maft-no-critic")
    metrics = load(a.metrics(1))
    metrics["scores"]["problem_ids"][0] = "another"
    write_json(a.metrics(1), metrics)
    groups = groups_of(a, b)
    (row,) = against(find_baseline("maft-no-critic", groups), groups)
    assert row.result is None and row.p_holm is None
    assert "needs the same problems on both sides" in row.fault


def test_names_that_are_none_or_several(make_run: MakeRun) -> None:
    groups = groups_of(make_run("a", upto=0), make_run("b", upto=0, selection={"mix": "cap"}))
    with pytest.raises(UsageError, match="could be any of 'maft · mix=cap', 'maft · mix=exact'"):
        find_baseline("maft", groups)
    assert find_baseline("maft · mix=cap", groups).groups[0].runs[0].name == "b"
    with pytest.raises(UsageError, match="--baseline x: neither a run nor a method here; name one of") as caught:
        find_baseline("x", groups)
    assert "\n" not in str(caught.value)


def compared(name: str, *runs: RunDir):
    groups = groups_of(*runs)
    return {row.group.line: row for row in against(find_baseline(name, groups), groups)}


def measured(run: RunDir, t: int, name: str):
    return outcomes(load(run.metrics(t)), name)


@pytest.mark.parametrize(("name", "measure"), [("debate", "vote@M"), ("majority", "vote@1"), ("base", "answer")])
def test_the_base_is_taken_from_whichever_run_measured_it(make_run: MakeRun, name: str, measure: str) -> None:
    """One answer holds no debate and no majority: that is another run's, of its seed, on the same problems."""
    stars = [make_run(f"s{seed}", seed=seed, upto=1, gain=0.6, method="star") for seed in (0, 1)]
    mafts = [make_run(f"m{seed}", seed=seed, upto=0) for seed in (1, 0)]
    row = compared(name, *stars, *mafts)["star"]
    tests = [
        paired_test(measured(base, 0, measure), measured(star, 1, "answer"))
        for star, base in zip(stars, stars if name == "base" else (mafts[1], mafts[0]), strict=True)
    ]
    assert (row.result.gained, row.result.lost) == (sum(t.b_only for t in tests), sum(t.a_only for t in tests))
    assert (row.result.pairs, row.facts["baseline_iteration"], row.fault) == (2, 0, None)


def test_what_was_not_measured_is_not_tested_against(make_run: MakeRun) -> None:
    """It used to be one answer that star was tested against, and a star of significance for it."""
    star = make_run("s", upto=1, gain=0.9, method="star", problems=200)
    row = compared("debate", star)["star"]
    assert row.result is None and row.p_holm is None
    assert row.fault == "the base's debate of 3 agents in 2 rounds was not measured in these runs"
    report = report_of(star, baseline="debate")
    assert row.fault in report.text
    assert not any("*" in cell for table in report.methods for row in table.rows for cell in row)
    # One answer was measured.
    assert compared("base", star)["star"].result.p < 0.05


@pytest.mark.parametrize(
    "other",
    [
        {"method": "maft-no-summary"},
        {"method": "cooperative"},
        {"method": "unique-id"},
        {"method": "single-agent-ft-hot"},
        {"debate": {"agents": 5, "rounds": 2}},
        {"debate": {"agents": 3, "rounds": 3}},
        {"sampling": {"top_p": 1.0}},
        {"model": {"path": "/models/tiny", "dtype": "float32"}},
        {"questions": "2"},
        {"task": {"name": "math"}},
        {"task": {"name": "arithmetic", "prompts": "compact"}},
    ],
)
def test_another_debate_is_not_the_bases(make_run: MakeRun, other: dict) -> None:
    star, run = make_run("s", upto=1, method="star"), make_run("o", upto=0, **other)
    groups = groups_of(star, run)
    (row,) = (row for row in against(find_baseline("debate", groups), groups) if row.group.any.name == "s")
    assert row.result is None and "was not measured" in row.fault


def test_first_answers_are_the_bases_whatever_is_made_of_them(make_run: MakeRun) -> None:
    star, run = make_run("s", upto=1, method="star"), make_run("o", upto=0, method="maft-no-summary")
    assert compared("majority", star, run)["star"].result is not None
    assert compared("debate", star, run)["star"].result is None


def test_an_untrained_recipe_is_not_tested_against_itself(make_run: MakeRun) -> None:
    runs = [make_run(method, upto=0, method=method) for method in ("base", "majority", "debate", "cooperative")]
    assert set(compared("debate", *runs)) == {"base", "majority", "cooperative"}
    assert set(compared("base", *runs)) == {"majority", "debate", "cooperative"}


def test_a_method_of_one_answer_has_one_test(make_run: MakeRun) -> None:
    """Its vote and its debate are its one answer once more, and are no tests of their own to be adjusted for."""
    runs = {name: make_run(name, upto=1, gain=0.5, method=name) for name in ("star", "majority-ft", "maft")}
    tests = {name: report_of(run).tested for name, run in runs.items()}
    assert {name: [one.facts["baseline"].partition("'s ")[2] for one in found] for name, found in tests.items()} == {
        "star": ["one answer"],
        "majority-ft": ["majority", "one answer"],
        "maft": ["debate", "majority", "one answer"],
    }
    (one,) = tests["star"]
    assert one.p_holm == one.result.p == paired_test(*(measured(runs["star"], t, "answer") for t in (0, 1))).p


def test_the_iteration_that_an_alarm_kept_is_compared(make_run: MakeRun) -> None:
    ours = [make_run(f"a{seed}", seed=seed, upto=4, early_stop=True, gain=0.5) for seed in (0, 1)]
    for run, kept in zip(ours, (3, 1), strict=True):
        write_json(run.ended, {"iteration": 4, "kept": kept, "alarm": ["agreement fell"]})
    base = [make_run(f"d{seed}", seed=seed, upto=0, method="debate") for seed in (0, 1)]
    report = report_of(*ours, *base, baseline="debate")
    (test,) = report.tested
    pairs = [
        paired_test(measured(plain, 0, "vote@M"), measured(run, kept, "vote@M"))
        for plain, run, kept in zip(base, ours, (3, 1), strict=True)
    ]
    assert (test.result.gained, test.result.lost) == (sum(t.b_only for t in pairs), sum(t.a_only for t in pairs))
    assert "maft, iteration 1, 3 (kept), against the base's debate: " in report.markdown()
    assert "the one that the alarm kept" in report.text
    assert "Iterations: 0, 1, 3 (kept);" in report.methods[0].note
    values = [load(run.metrics(t))["accuracy"]["vote@M"]["value"] for run, t in zip(ours, (3, 1), strict=True)]
    assert report.rows[1].point["value"] == pytest.approx(sum(values) / 2)
    # As a baseline, too, and of a single run.
    (other,) = report_of(*ours, *base, baseline="maft").tested
    assert (other.result.gained, other.result.lost) == (test.result.lost, test.result.gained)
    assert "maft, iteration 3 (kept), against the base's debate: " in report_of(ours[0]).text
