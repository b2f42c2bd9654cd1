"""What is drawn is what was measured, in panels of one size, legends below; the page is one file without network."""

from __future__ import annotations

import base64
import html
import re
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from hpcmaf.evaluation.accuracy import MEASURES
from hpcmaf.report.groups import Group
from hpcmaf.report.plots import WIDTH, Panel, Plot, draw, plots_of, save_plots
from hpcmaf.report.report import aggregate
from hpcmaf.run.directory import RunDir
from tests.report.conftest import MakeRun, groups_of


def plot_of(groups: list[Group], stem: str) -> Plot:
    (plot,) = (plot for plot in plots_of(groups) if plot.stem == stem)
    return plot


def drawn(groups: list[Group], stem: str) -> Figure:
    figure = Figure(layout="constrained")
    draw(figure, groups, plot_of(groups, stem))
    return figure


def lines(panel: Panel) -> dict[str, tuple[list[float], list[float]]]:
    return {
        name: ([*points], [panel.scale * point["value"] for point in points.values()])
        for name, points in panel.lines.items()
    }


def test_ways_of_answering_of_one_recipe(make_run: MakeRun) -> None:
    groups = groups_of(make_run("run", upto=3))
    figure, (read,) = drawn(groups, "accuracy"), groups[0].runs
    (axes,) = figure.axes
    for container, measure in zip(axes.containers, MEASURES, strict=True):
        line, _, (bars,) = container
        assert list(line.get_ydata()) == pytest.approx([100 * i.values[measure]["value"] for i in read.evaluated])
        assert [round(x) for x in line.get_xdata()] == [0, 1, 2, 3]
        for (low, high), iteration in zip(bars.get_segments(), read.evaluated, strict=True):
            assert (high[1] - low[1]) / 2 == pytest.approx(100 * iteration.values[measure]["se"])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(MEASURES.values())
    caption = legend.get_title().get_text()
    assert "40 evaluation problems" in caption and "standard error" in caption
    assert figure.get_suptitle() == "arithmetic · tiny · maft · 3 agents × 2 rounds"


def test_means_with_bands_over_seeds(make_run: MakeRun) -> None:
    runs = [make_run(f"m{s}", seed=s, upto=3 - s, planned=3) for s in (0, 1)]
    groups = groups_of(*runs, make_run("d", upto=0, method="debate"))
    maft = next(group for group in groups if group.label == "maft")
    (panel,) = plot_of(groups, "methods").panels
    # Iterations that all runs have.
    assert lines(panel)["maft"] == ([0, 1, 2], pytest.approx([100 * maft.point(t)["value"] for t in range(3)]))
    assert len(lines(panel)["debate"][1]) == 1
    figure = drawn(groups, "methods")
    (axes,) = figure.axes
    (band,) = (one for one in axes.collections if isinstance(one, PolyCollection))
    ys = band.get_paths()[0].vertices[:, 1]
    ends = (min(maft.point(t)["low"] for t in range(3)), max(maft.point(t)["high"] for t in range(3)))
    assert (ys.min(), ys.max()) == pytest.approx([100 * end for end in ends])
    assert "mean of 1 to 2 runs" in figure.legends[0].get_title().get_text()


@pytest.mark.parametrize("more", ["", " · 3 agents × 2 rounds · critics=disputed, start_from=previous"])
def test_all_plots_are_of_one_width_and_legends_overlap_nothing(make_run: MakeRun, more: str) -> None:
    made = [make_run(name, upto=1, method=name) for name in ("maft", "star", "union-data", "majority-ft")]
    groups = [replace(group, recipe=group.recipe + more) for group in groups_of(*made)]
    for plot in plots_of(groups):
        figure = Figure(layout="constrained")
        draw(figure, groups, plot)
        figure.draw_without_rendering()
        assert figure.get_figwidth() == WIDTH
        legend = figure.legends[0].get_window_extent()
        assert legend.x0 >= 0 and legend.x1 <= figure.bbox.x1
        for axes in figure.axes:
            if axes.get_visible():
                assert legend.y1 < axes.get_tightbbox().y0 and axes.get_window_extent().height / figure.dpi > 1.8
        assert all(text.get_fontsize() >= 10 for text in figure.legends[0].get_texts())


def test_diversity(make_run: MakeRun) -> None:
    (group,) = groups = groups_of(make_run("m", upto=2))
    others = [plot for plot in plots_of(groups) if plot.stem != "accuracy"]
    plots = {plot.stem: [lines(panel)["maft"] for panel in plot.panels] for plot in others}
    diversity = [group.point(t, "disagreement")["value"] for t in range(3)]
    assert diversity == pytest.approx([1 - i.metrics["consensus"] for i in group.runs[0].evaluated])
    assert plots == {"diversity": [([0, 1, 2], diversity)]}


def test_a_recipe_looks_the_same_in_every_plot(make_run: MakeRun) -> None:
    groups = groups_of(
        *(make_run(f"r{n}", upto=0, problems=8, debate={"agents": 2, "rounds": n}) for n in range(1, 15))
    )
    looks: dict[str, set] = {}
    for axes in [axes for plot in plots_of(groups) for axes in drawn(groups, plot.stem).axes]:
        for container in axes.containers:
            line = container.lines[0]
            look = (line.get_color(), line.get_marker(), line.get_linestyle())
            looks.setdefault(container.get_label(), set()).add(look)
    assert len(looks) == 14 == len(set.union(*looks.values()))
    assert {len(of_one) for of_one in looks.values()} == {1}


@pytest.mark.parametrize("name", ["中文", "हिन्दी", "\U0001f600", "naïve β"])
def test_a_letter_that_no_font_has_is_no_warning_and_not_lost(make_run: MakeRun, tmp_path: Path, name: str) -> None:
    with warnings.catch_warnings(action="error"):
        save_plots(groups_of(make_run("run", upto=0, model={"path": f"/models/{name}"})), tmp_path)
    assert name in (tmp_path / "accuracy.svg").read_text(encoding="utf-8")


@pytest.fixture
def run(make_run: MakeRun) -> RunDir:
    return make_run("<b>run & more", upto=1)


def test_one_file_without_network(run: RunDir, tmp_path: Path) -> None:
    report = aggregate([run.root], tmp_path)
    text = (tmp_path / "report.html").read_text()
    targets = re.findall(r"""<[^>]*\b(?:src|href|srcset|action|data)=["']?([^"'\s>]+)""", text)
    pictures = [target for target in targets if not target.startswith("#")]
    assert len(pictures) == 2 and "default-src 'none'" in text
    assert "<script" not in text and not re.search(r"<[^>]*\son\w+=", text)
    for picture in pictures:
        assert picture.startswith("data:image/svg+xml;base64,")
        assert b"<svg" in base64.b64decode(picture.partition(",")[2])[:600]
    # The tables are those of the report, without a script.
    shown = Counter(map(html.unescape, re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", text)))
    for table in report.tables():
        assert not Counter(cell for row in table.rows for cell in row if cell) - shown
    assert "&lt;b&gt;run &amp; more" in text
