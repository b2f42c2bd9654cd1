"""Tables of what debates do show the metrics, of whatever version."""

from __future__ import annotations

from hpcmaf.files.publish import write_json
from hpcmaf.report.plots import plots_of
from hpcmaf.report.recipes import diversity_table, recipe_tables
from hpcmaf.report.records import read_run
from tests.report.conftest import MakeRun, groups_of


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


def test_tables_of_behaviour_show_the_metrics(make_run: MakeRun) -> None:
    (group,) = groups_of(make_run("a", seed=0, upto=1), make_run("b", seed=1, upto=1))
    tables = {table.title.partition(": ")[2]: table for table in recipe_tables(group)}
    assert list(tables) == [
        "accuracy over 2 runs",
        "health",
        "what agents learned from",
        "every agent",
        "the last round's vote against the first round's",
        "diversity",
    ]
    assert all({len(row) for row in table.rows} == {len(table.header)} for table in tables.values())
    means = [run.final.metrics["rounds"][1]["mean"]["value"] for run in group.runs]
    assert tables["every agent"].rows[-1][-2].startswith(f"{50 * sum(means):.2f} ± ")


def test_a_round_that_lacks_problems_is_damage(make_run: MakeRun) -> None:
    run = make_run("a", upto=0)
    metrics = dict(read_run(run.root).evaluated[0].metrics or {})
    write_json(run.metrics(0), metrics | {"scores": metrics["scores"] | {"vote@1": metrics["scores"]["vote@1"][:-1]}})
    assert "scores and number of problems do not fit" in read_run(run.root).missing[0]


def test_metrics_of_earlier_versions_still_count(make_run: MakeRun) -> None:
    run = make_run("old", upto=1)
    for t in (0, 1):
        metrics = dict(read_run(run.root).evaluated[t].metrics)
        for key in ("diversity", "selection", "cut_off", "unanimous", "tokens_per_answer"):
            metrics.pop(key, None)
        metrics["scores"] = {k: v for k, v in metrics["scores"].items() if k not in {"agents", "agreeing"}}
        write_json(run.metrics(t), metrics)
    (group,) = groups = groups_of(run)
    assert group.runs[0].missing == []
    tables = recipe_tables(group)[1:-1]
    titles = [table.title for table in tables]
    assert titles == ["maft: health", "maft: every agent", "maft: the last round's vote against the first round's"]
    assert [plot.stem for plot in plots_of(groups)] == ["accuracy"]
    shares = (f"{group.runs[0].evaluated[0].metrics[name]:.1%}" for name in ("unparsable", "tied"))
    assert tables[0].rows[0] == ("0, evaluation", "–", *shares, "–", "–")
