"""What is drawn is what was measured."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from hpcmaf.evaluation import MEASURES
from hpcmaf.report.groups import group_runs
from hpcmaf.report.plots import MOST_PANELS, STYLE, _before_and_after, _panels, _spread, save_accuracy
from hpcmaf.report.records import read_run
from hpcmaf.rundir import RunDir

MakeRun = Callable[..., RunDir]


def groups_of(*runs: RunDir):
    return group_runs([read_run(run.root) for run in runs])


def test_lines_bars_and_names(make_run: MakeRun) -> None:
    run = make_run("run", upto=3)
    figure = Figure(layout="constrained")
    _panels(figure, groups_of(run))
    (axes,) = figure.axes
    read = read_run(run.root)
    for container, measure in zip(axes.containers, STYLE, strict=True):
        expected = [100 * iteration.accuracy(measure)["value"] for iteration in read.evaluated]
        line, _, (bars,) = container
        assert list(line.get_ydata()) == pytest.approx(expected)
        assert [round(x) for x in line.get_xdata()] == [0, 1, 2, 3]
        for (low, high), iteration in zip(bars.get_segments(), read.evaluated, strict=True):
            assert (high[1] - low[1]) / 2 == pytest.approx(100 * iteration.accuracy(measure)["se"])
        assert line.get_color() == STYLE[measure][0]
    texts = {text.get_text() for text in axes.texts}
    assert texts == {*MEASURES.values(), "debate of the base"}
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [line.get_ydata()[0] for line in dotted] == [100 * read.at(0).accuracy("vote@M")["value"]]
    assert figure.get_suptitle() == "arithmetic · tiny · maft · 3 agents × 2 rounds"
    assert "40 evaluation problems" in figure.get_supxlabel()
    assert "standard error" in figure.get_supxlabel()


def test_mean_is_drawn_over_seeds_that_all_have_the_iteration(make_run: MakeRun) -> None:
    figure = Figure()
    (group,) = groups = groups_of(make_run("a", seed=0, upto=3), make_run("b", seed=1, upto=2, planned=3))
    _panels(figure, groups)
    line = figure.axes[0].containers[0][0]
    assert list(line.get_ydata()) == pytest.approx([100 * group.point(t, "answer").value for t in range(3)])
    assert "mean of 2 runs" in figure.get_supxlabel()


def test_many_recipes_take_a_line_each(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(f"r{n}", upto=1, problems=8, debate={"agents": 2, "rounds": n}) for n in range(1, MOST_PANELS + 2)]
    groups = groups_of(*runs)
    assert len(groups) == MOST_PANELS + 1
    figure = Figure()
    _before_and_after(figure, groups)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert sorted(names) == sorted(group.label for group in groups)
    save_accuracy(groups, tmp_path / "plot")
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")


def test_files_are_whole_and_repeatable(make_run: MakeRun, tmp_path: Path) -> None:
    groups = groups_of(make_run("run", upto=1))
    save_accuracy(groups, tmp_path / "one")
    save_accuracy(groups, tmp_path / "two")
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    width, height = struct.unpack(">II", (tmp_path / "one.png").read_bytes()[16:24])
    assert width >= 1000 and height >= 600
    assert {path.name for path in tmp_path.glob("*.*")} == {"one.png", "one.svg", "two.png", "two.svg"}


def test_leaves_matplotlib_as_it_was(make_run: MakeRun, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    save_accuracy(groups_of(make_run("run", upto=1)), tmp_path / "plot")
    assert dict(matplotlib.rcParams) == before


@given(st.lists(st.floats(0, 100), max_size=8), st.floats(0.1, 10))
def test_names_never_overlap_and_stay_in_order(heights: list[float], gap: float) -> None:
    heights.sort()
    moved = _spread(heights, gap)
    assert len(moved) == len(heights)
    assert all(above - below >= gap - 1e-6 for below, above in pairwise(moved))
    if all(above - below >= gap for below, above in pairwise(heights)):
        assert moved == pytest.approx(heights)
