"""Studies: runs as one plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcmaf.errors import ConfigError
from hpcmaf.run.directory import RunDir
from hpcmaf.store.verify import verify
from hpcmaf.study.plan import load_study
from tests.commands import hpcmaf, invoke, setting
from tests.study.studies import SIZE, drive, lay_out, study_file

# --- the file -------------------------------------------------------------------


def test_runs_are_the_product(tmp_path: Path) -> None:
    study = lay_out(
        tmp_path, "maft, {name: five, method: maft, set: {debate.agents: 5}}", seeds="[3, 4]", set="{task.eval: 7}"
    )
    named = {entry.run.root.name: entry.recipe for entry in study.runs}
    assert list(named) == [
        "arithmetic-micro-maft-seed3",
        "arithmetic-micro-maft-seed4",
        "arithmetic-micro-five-seed3",
        "arithmetic-micro-five-seed4",
    ]
    five = named["arithmetic-micro-five-seed4"]
    # The command line's keys win over the file's.
    assert (five.seed, five.method, five.debate.agents, five.task.eval, five.iterations) == (4, "maft", 2, 6, 1)
    assert (study.name, study.root) == ("few", tmp_path / "runs")


def test_a_variant_may_evaluate_elsewhere(tmp_path: Path) -> None:
    there = "{name: there, method: maft, set: {evaluate_on: {name: gsm8k, source: x}}}"
    (entry,) = lay_out(tmp_path, there).runs
    assert entry.recipe.evaluation.name == "gsm8k"


@pytest.mark.parametrize(
    ("methods", "keys", "words"),
    [
        ("maff", {}, "arithmetic-micro-maff-seed0: .*method: should be .*, not 'maff'"),
        ("maft, maft", {}, "methods: 'maft' is there twice"),
        ("maft", {"seed": "[0]"}, "seed: unknown key; did you mean 'seeds'"),
        ("maft", {"models": "[gpt]"}, "neither a file nor a shipped recipe"),
        ("maft", {"seeds": "[]"}, "seeds"),
        ("{name: a b, method: maft}", {}, "methods.0.name"),
        ("{name: a, method: maft, colour: red}", {}, r"methods.0.colour: unknown key; known here: method, name, set"),
        ("null", {}, r"methods.0: should hold keys \(name, method, set\), not None"),
        ("maft, ", {"tasks": "[null]"}, "tasks.0: .*valid string"),
        ("3", {}, r"methods.0: should hold keys"),
        ("{name: a, method: [maft]}", {}, r"methods.0.method: .*valid string"),
        ("{name: a, method: maft, set: {a: 2024-01-01}}", {}, "methods.0.set.a: a date is neither"),
        ("{name: a, method: maft, set: {'': 1}}", {}, "expected key=value"),
        ("{name: a, method: maft, set: {method: []}}", {"seeds": "[x]"}, "seeds.0"),
        ("maft", {"seeds": "[1, 2, 1]"}, "seeds: 1 is there twice"),
        ("maft", {"seeds": "[-1]"}, "seed: .*greater than or equal to 0"),
        ("maft", {"models": "[micro, micro]"}, "models: 'micro' is there twice"),
        ("maft, star", {"baseline": "single-agent-ft"}, "no method of the study; one of base, debate, maft, maj"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, methods: str, keys: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        lay_out(tmp_path, methods, **keys)
    assert "\n" not in str(caught.value)


def test_values_for_recipes_are_not_read_twice(tmp_path: Path) -> None:
    """Text stays text on its way into a recipe, whatever YAML would make of it."""
    (entry,) = lay_out(tmp_path, "maft", set="{description: '1e3: \U0001f40d é', model.revision: '12'}").runs
    assert (entry.recipe.description, entry.recipe.model.revision) == ("1e3: \U0001f40d é", "12")


def test_no_such_study() -> None:
    with pytest.raises(ConfigError, match="nowhere: neither a file nor a shipped study; shipped are ablations, arith"):
        load_study("nowhere")


# --- driving ----------------------------------------------------------------------


def test_a_run_that_cannot_be_stops_the_study_before_it_begins(tmp_path: Path) -> None:
    study = lay_out(tmp_path, "maft, unique-id")
    with pytest.raises(ConfigError, match="run arithmetic-micro-unique-id-seed0: .*no words"):
        drive(study)
    assert not study.root.exists()


# --- the command --------------------------------------------------------------------


def test_dry_run_of_the_shipped_study_writes_nothing(tmp_path: Path) -> None:
    said = invoke("study", "arithmetic-micro", "--dry-run", "--out", tmp_path / "runs")
    assert "arithmetic-micro: 39 runs, " in said
    assert "69 of them shared with arithmetic-micro-500-maft-seed2\n" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_study_on_this_machine(tmp_path: Path) -> None:
    """Real jobs, as few as show it: ends in one table over both runs."""
    path = study_file(tmp_path, "debate, maft", iterations=0, baseline="debate", reference="true")
    said = hpcmaf("study", path, "--out", tmp_path / "runs", *setting(*SIZE))
    text = (tmp_path / "runs" / "report" / "report.md").read_text()
    # An untrained maft is the debate of the base itself, which is not tested against itself.
    assert "\n| maft | " in text and "against the base's debate" not in text
    runs = [RunDir(tmp_path / "runs" / f"arithmetic-micro-{label}-seed0") for label in ("debate", "maft")]
    for run in runs:
        assert verify(run.root) == [] and run.load_plan().recipe["method"] in said
    assert "maft-seed0: 1 task taken over from arithmetic-micro-debate-seed0" in said
    assert [run.submissions.read_text().count('"intent"') for run in runs] == [2, 1]
