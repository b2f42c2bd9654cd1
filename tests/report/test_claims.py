"""The paper's claims put to the test: what is asked, of whom, and what comes out."""

from __future__ import annotations

import json

import pytest

from hpcmaf.evaluation.significance import holm
from hpcmaf.report.claims import claims
from hpcmaf.run.directory import RunDir
from tests.report.conftest import MakeRun, groups_of, load, report_of

SEEDS = (0, 1)


@pytest.fixture
def runs(make_run: MakeRun) -> list[RunDir]:
    """The method and one finetuned model, the former far better, over four iterations."""
    many = [make_run(f"maft-{seed}", seed=seed, upto=4, gain=0.5) for seed in SEEDS]
    one = [make_run(f"one-{seed}", seed=seed, upto=4, gain=0.05, method="single-agent-ft") for seed in SEEDS]
    return many + one


def test_every_claim_is_asked_and_reported(runs: list[RunDir]) -> None:
    report = report_of(*runs)
    found = report.claims
    assert [claim.text for claim in found] == [
        "the base: majority above one answer",
        "the base: debate above majority",
        "maft above the base's debate",
        "maft above single-agent-ft, iteration 4",
        "single-agent-ft goes on improving, iteration 2 to 4",
        "maft goes on improving, iteration 2 to 4",
        "maft improves more than single-agent-ft, iteration 2 to 4",
        "maft keeps more diversity (1 − consensus) than single-agent-ft, iteration 4",
    ]
    assert {(claim.facts["evaluated_on"], claim.facts["model"]) for claim in found} == {("arithmetic", "tiny")}
    assert [claim.p_holm for claim in found] == holm([claim.result.p for claim in found])
    assert all(claim.result.pairs == len(SEEDS) for claim in found)
    # Diversity counts who disagrees.
    shares = [[1 - load(run.metrics(4))["consensus"] for run in part] for part in (runs[:2], runs[2:])]
    many, one = (sum(part) / len(part) for part in shares)
    assert found[-1].result.difference == pytest.approx(many - one)
    # The better society agrees more: the claim's contrary.
    assert many < one and found[-1].verdict == "contrary"
    result = found[3].result
    interval = f"{100 * result.low:+.2f} to {100 * result.high:+.2f}"
    values = f"{100 * result.difference:+.2f} points ({interval}; {result.gained} gained, {result.lost} lost, 2 runs)"
    line = f"maft above single-agent-ft, iteration 4: {values}, p "
    assert f"- holds: {line}" in report.markdown() and f"holds: {line}" in report.text
    verdicts = [verdict for verdict, _ in report.findings]
    assert verdicts == sorted(verdicts, key="open".__eq__) and len(set(verdicts)) > 1, "what is decided comes first"
    assert [one["claim"] for one in report.json()["claims"]] == [claim.text for claim in found]


def test_nothing_is_claimed_without_both_or_of_two_recipes(runs: list[RunDir], make_run: MakeRun) -> None:
    assert claims(groups_of(*runs[:2])) == []
    other = make_run("other", upto=4, selection={"w": 0.2})
    assert claims(groups_of(*runs, other)) == []


def test_metrics_of_an_earlier_version_say_nothing_of_diversity(runs: list[RunDir]) -> None:
    value = load(runs[0].metrics(4))
    del value["scores"]["agreeing"]
    runs[0].metrics(4).write_text(json.dumps(value))
    claim = claims(groups_of(*runs))[-1]
    assert claim.result.pairs == 1  # of the other seed
