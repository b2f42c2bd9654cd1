"""Lines of the further plots are what was measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from hpcmaf.publish import write_json
from hpcmaf.report.axes import MOST_NAMED, Style, draw_line, styles_of
from hpcmaf.report.behaviour import behaviour_tables, diversity_table
from hpcmaf.report.groups import group_runs, Point
from hpcmaf.report.lines import (
    _answers,
    _cost,
    _diversity,
    _methods,
    _rounds,
    _tradeoff,
    save_lines,
)
from hpcmaf.report.records import read_run
from hpcmaf.rundir import RunDir

MakeRun = Callable[..., RunDir]


def groups_of(*runs: RunDir):
    return group_runs([read_run(run.root) for run in runs])


def lines(axes) -> dict[str, tuple[list[float], list[float]]]:
    return {c.get_label(): (list(c[0].get_xdata()), list(c[0].get_ydata())) for c in axes.containers}


def test_methods_with_bands_over_seeds(make_run: MakeRun) -> None:
    runs = [make_run(f"m{s}", seed=s, upto=2) for s in (0, 1)]
    groups = groups_of(*runs, make_run("d", upto=0, method="debate"))
    figure = Figure(layout="constrained")
    _methods(figure, groups)
    (axes,) = figure.axes
    drawn = lines(axes)
    maft = next(group for group in groups if group.label == "maft")
    assert [round(x) for x in drawn["maft"][0]] == [0, 1, 2]
    assert drawn["maft"][1] == pytest.approx([100 * maft.point(t).value for t in range(3)])
    assert len(drawn["debate"][1]) == 1
    (band,) = (one for one in axes.collections if isinstance(one, PolyCollection))
    ys = band.get_paths()[0].vertices[:, 1]
    assert (ys.min(), ys.max()) == pytest.approx(
        (
            100 * min(maft.point(t).low for t in range(3)),
            100 * max(maft.point(t).high for t in range(3)),
        )
    )
    assert figure.legends[0].get_texts()[0].get_text() in {"maft", "debate"}


@pytest.mark.parametrize("more", ["", " · 3 agents × 2 rounds · critics=disputed, start_from=previous"])
def test_long_names_leave_the_plot_its_room(make_run: MakeRun, more: str) -> None:
    groups = groups_of(make_run("m", upto=2), make_run("d", upto=0, method="debate"))
    figure = Figure(layout="constrained")
    _methods(figure, [replace(group, label=group.label + more) for group in groups])
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_window_extent().width / figure.dpi > 4.5
    assert figure.legends[0].get_window_extent().x1 <= figure.bbox.x1


def test_diversity_tradeoff_rounds_and_cost(make_run: MakeRun) -> None:
    run = make_run("m", upto=2)
    (group,) = groups = groups_of(run)
    diversity = [group.over(t, lambda i: i.diverse("disagreement")).value for t in range(3)]
    assert diversity == pytest.approx([1 - i.metrics["consensus"] for i in group.runs[0].evaluated])
    accuracy = [100 * group.point(t).value for t in range(3)]
    figures = []
    for draw in (_diversity, _tradeoff, _rounds, _cost, _answers):
        figures.append(Figure(layout="constrained"))
        draw(figures[-1], groups)
    assert lines(figures[0].axes[0])["maft"][1] == pytest.approx(diversity)
    path = figures[1].axes[0].lines[0]
    assert (list(path.get_xdata()), list(path.get_ydata())) == (pytest.approx(diversity), pytest.approx(accuracy))
    vote, mean = (lines(axes)["maft"] for axes in figures[2].axes)
    rounds = group.runs[0].last.metrics["rounds"]
    assert vote == ([1, 2], pytest.approx([100 * one["vote"]["value"] for one in rounds]))
    assert mean == ([1, 2], pytest.approx([100 * one["mean"]["value"] for one in rounds]))
    curve = group.runs[0].last.metrics["curves"][0]
    for axes, kind in zip(figures[4].axes, ("pass", "majority"), strict=True):
        assert lines(axes)["maft"] == ([1, 2, 3], pytest.approx([100 * one["value"] for one in curve[kind]]))
    tokens, seconds, answers = (lines(axes)["maft"] for axes in figures[3].axes)
    assert tokens == ([0, 2540, 5080], pytest.approx(accuracy))
    assert seconds[0] == [0, 6.0, 12.0]
    assert answers[0] == [1200 / 40, 1200 / 40, 2400 / 40]


def test_measured_diversity_joins_table_and_plot(make_run: MakeRun) -> None:
    run = make_run("m", upto=1)
    measures = {"embedding": {"value": 0.25, "se": 0.01, "problems": 9}, "kl_base": None}
    for t in (0, 1):
        value = {"schema": "hpcmaf-diversity/1", "iteration": t, "problems": 9, "encoder": None, "measures": measures}
        write_json(run.diversity(t), value)
    (group,) = groups = groups_of(run)
    table = diversity_table(group)
    assert table.header == ("iteration", "1 − consensus", "embedding")
    assert table.rows[1][2] == "0.2500 ± 0.0100"
    figure = Figure(layout="constrained")
    _diversity(figure, groups)
    assert lines(figure.axes[1])["maft"][1] == [0.25, 0.25]
    write_json(run.diversity(1), value | {"measures": {"embedding": {"value": "x"}}})
    read = read_run(run.root)
    assert len(read.missing) == 1 and read.missing[0].startswith("it01/diversity.json: damaged (measures.embedding")


def test_tables_of_behaviour_show_the_metrics(make_run: MakeRun) -> None:
    (group,) = groups_of(make_run("a", seed=0, upto=1), make_run("b", seed=1, upto=1))
    tables = {table.title.partition(": ")[2]: table for table in behaviour_tables(group)}
    assert list(tables) == [
        "what agents learned from",
        "every agent",
        "the last round's vote against the first round's",
        "what debating does",
        "where the first vote is wrong",
        "who is right where",
        "k answers",
        "diversity",
    ]
    assert all({len(row) for row in table.rows} == {len(table.header)} for table in tables.values())
    moves = [run.last.metrics["movement"][0]["corrected"] for run in group.runs]
    cell = tables["what debating does"].rows[-1][2]
    assert cell.startswith(f"{50 * sum(move['value'] for move in moves):.2f} ± ")
    assert cell.endswith(f"(of {sum(move['of'] for move in moves)})")


def test_what_debates_make_of_wrong_votes(make_run: MakeRun) -> None:
    """Two runs of eight problems: beside four of six wrong votes somebody was right, and one of those was found."""
    runs = make_run("a", seed=0, upto=0, problems=8), make_run("b", seed=1, upto=0, problems=8)
    scores = [
        {"vote@1": "11111100", "vote@M": "11111110", "agents": [["11111110", "11111100"], ["11111110", "11111110"]]},
        {"vote@1": "11110000", "vote@M": "11110001", "agents": [["11111110", "11110000"], ["11110001", "11110001"]]},
    ]
    for run, changed in zip(runs, scores, strict=True):
        metrics = read_run(run.root).iterations[0].metrics
        assert metrics is not None
        write_json(run.metrics(0), {**metrics, "scores": metrics["scores"] | changed})
    (group,) = groups_of(*runs)
    table = next(table for table in behaviour_tables(group) if "first vote is wrong" in table.title)
    iteration, *cells = (re.sub(r" ± [\d.]+", "", cell) for cell in table.rows[0])
    # Means over runs: 1/2 and 3/4 had one; 1/1 and 0/3 were found; 0/1 and 1/1 came from nowhere.
    assert (iteration, cells) == ("0 (base)", ["37.50", "62.50 (of 6)", "50.00 (of 4)", "50.00 (of 2)"])


def test_a_round_that_lacks_problems_is_damage(make_run: MakeRun) -> None:
    run = make_run("a", upto=0)
    metrics = dict(read_run(run.root).iterations[0].metrics or {})
    rounds = [[marks[:-1] for marks in agents] for agents in metrics["scores"]["agents"]]
    write_json(run.metrics(0), metrics | {"scores": metrics["scores"] | {"agents": rounds}})
    assert "scores and number of problems do not fit" in read_run(run.root).missing[0]


def test_movement_of_an_earlier_version_has_fewer_columns(make_run: MakeRun) -> None:
    run = make_run("a", upto=0)
    metrics = read_run(run.root).iterations[0].metrics
    assert metrics is not None
    moves = [
        {k: v for k, v in move.items() if k not in {"majority_corrected", "split_corrected"}}
        for move in metrics["movement"]
    ]
    for written, there in ((metrics, True), ({**metrics, "movement": moves}, False)):
        write_json(run.metrics(0), written)
        (group,) = groups_of(run)
        assert group.runs[0].missing == []
        (table,) = (table for table in behaviour_tables(group) if "what debating does" in table.title)
        assert ("majority corrected" in table.header) is there and "gave up" in table.header


def test_metrics_of_earlier_versions_still_count(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("old", upto=1)
    for t in (0, 1):
        metrics = dict(read_run(run.root).iterations[t].metrics)
        for key in ("movement", "curves", "by_kind", "diversity", "selection"):
            metrics.pop(key, None)
        metrics["rounds"] = [{k: v for k, v in one.items() if k != "specialisation"} for one in metrics["rounds"]]
        metrics["scores"] = {k: v for k, v in metrics["scores"].items() if k not in {"agents", "agreeing"}}
        write_json(run.metrics(t), metrics)
    (group,) = groups = groups_of(run)
    assert group.runs[0].missing == []
    titles = [table.title for table in behaviour_tables(group)]
    assert titles == ["maft: every agent", "maft: the last round's vote against the first round's"]
    assert [plot.stem for plot in save_lines(groups, tmp_path)] == ["rounds", "cost"]


def test_only_so_many_lines_have_names(make_run: MakeRun) -> None:
    groups = groups_of(
        *(make_run(f"r{n}", upto=0, problems=8, debate={"agents": 2, "rounds": n}) for n in range(1, MOST_NAMED + 3))
    )
    styles = styles_of(groups)
    assert len(styles) == MOST_NAMED + 2
    assert sum(style.name is None for style in styles.values()) == 2
    looks = [(s.colour, s.dashes) for s in styles.values() if s.name]
    assert len(set(looks)) == MOST_NAMED


@pytest.mark.parametrize("faint_first", [True, False])
def test_a_grey_line_that_has_collapsed_leaves_the_others_their_room(faint_first):
    from matplotlib.figure import Figure

    def points(*values):
        return [Point(value, 0.01, None, value, value, 1) for value in values]

    lines = [(Style("#cfcfcf", "", "-", None), points(0.8, 0.0)), (Style("#333333", "o", "-", "a"), points(0.8, 0.9))]
    axes = Figure().subplots()
    for style, line in lines if faint_first else lines[::-1]:
        draw_line(axes, style, [0, 1], line)
    low, high = axes.get_ylim()
    assert 70 < low < 80 and 90 < high < 100
    assert len(axes.get_lines()) >= 2


def test_a_collapsed_method_leaves_the_others_their_room_against_diversity(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, collapsed = make_run("m", gain=0.3), make_run("c", gain=-0.4, method="single-agent-ft")

    def limits(*runs: RunDir) -> list[float]:
        figure = Figure(layout="constrained")
        _tradeoff(figure, groups_of(*runs))
        return [*figure.axes[0].get_xlim(), *figure.axes[0].get_ylim()]

    together = limits(good, collapsed)
    monkeypatch.setattr("hpcmaf.report.axes.MOST_NAMED", 1)
    assert limits(good, collapsed) == pytest.approx(limits(good))
    assert together[2] < limits(good)[2] - 5, "it would have taken more room than that"


def test_the_bases_rounds_are_in_sight(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not those of a method that is only there in grey."""
    monkeypatch.setattr("hpcmaf.report.axes.MOST_NAMED", 1)
    good, bad = make_run("m", gain=0.5), make_run("c", gain=-0.4, method="single-agent-ft")
    for runs in ((good,), (good, bad)):
        figure = Figure(layout="constrained")
        _rounds(figure, groups_of(*runs))
        for axes in figure.axes:
            low, high = axes.get_ylim()
            dotted = [line for line in axes.get_lines() if line.get_linestyle() == ":"]
            assert len(dotted) == len(runs)
            assert all(low < y < high for line in dotted[:1] for y in line.get_ydata())
            grey = [line for line in axes.get_lines() if line.get_color() == "#cfcfcf"]
            assert len(grey) == len(runs) - 1
            assert all(min(line.get_ydata()) < low for line in grey)
