"""What runs show, drawn: panels of one size, a line per recipe that looks the same in all of them."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hpcmaf.evaluation.accuracy import MEASURES
from hpcmaf.files.publish import atomic_path
from hpcmaf.report.groups import Group, Point, common_title, together
from hpcmaf.report.recipes import DIVERSITY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito, which the colour-blind tell apart, but for yellow, too faint for a line; markers and
# dashes say the same once more.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#333333")
_MARKERS = "osD^vPX"
_DASHES = ("-", "--", ":")
# Inches: of every plot, of a panel, of a letter in the legend.
WIDTH, HEIGHT, _LETTER = 9.0, 3.1, 0.072
RC = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "hpcmaf",
    # Letters as text: smaller, they can be searched, and a browser has fonts of its own.
    "svg.fonttype": "none",
}
_ACCURACY = "accuracy (%)"


class Panel(NamedTuple):
    """Axes: of each line by name its points by iteration; ``scale`` is what values are multiplied by."""

    title: str
    up: str
    scale: float
    lines: Mapping[str, Mapping[int, Point]]


class Plot(NamedTuple):
    """One picture: its file's stem, what it shows, its panels, and all names that lines have in any plot."""

    stem: str
    about: str
    panels: Sequence[Panel]
    names: Sequence[str]


def plots_of(groups: Sequence[Group]) -> list[Plot]:
    """Every plot that there are metrics for: one recipe's ways of answering, or each one's own; and diversity."""
    recipes = sorted({group.line for group in groups})
    if len(groups) == 1:
        lines = {title: _points(groups[0], name) for name, title in MEASURES.items()}
        panels = [Panel("", _ACCURACY, 100.0, {title: points for title, points in lines.items() if points})]
        accuracy = Plot("accuracy", "Accuracy over iterations, by way of answering", panels, list(lines))
    else:
        about = "Accuracy of each method over iterations, answering in its own way"
        accuracy = Plot("methods", about, _panels(groups, _ACCURACY, None, 100.0), recipes)
    diverse = [panel for name, up in DIVERSITY.items() for panel in _panels(groups, up, name, 1.0)]
    plots = accuracy, Plot("diversity", "Diversity over iterations", diverse, recipes)
    return [plot for plot in plots if any(panel.lines for panel in plot.panels)]


def _panels(groups: Sequence[Group], up: str, name: str | None, scale: float) -> list[Panel]:
    """Of one value a panel for each task and model, with a line for each recipe."""
    panels = []
    for place, here in together(groups, attrgetter("place")).items():
        title = " · ".join(place) if len(here) < len(groups) else ""
        lines = {group.line: _points(group, name) for group in here}
        panels.append(Panel(title, up, scale, {line: points for line, points in lines.items() if points}))
    return [panel for panel in panels if panel.lines]


def _points(group: Group, name: str | None) -> dict[int, Point]:
    return {t: point for t in group.complete if (point := group.point(t, name))}


def _caption(groups: Sequence[Group]) -> str:
    counts = dict.fromkeys(group.problems for group in groups if group.complete)
    parts = [f"{' or '.join(counts)} evaluation problems", "bars: standard error over problems"]
    runs = sorted({len(group.runs) for group in groups})
    if runs[-1] > 1:
        parts.append(f"mean of {runs[0] if len(runs) == 1 else f'{runs[0]} to {runs[-1]}'} runs")
        parts.append("bands: lowest to highest run")
    return textwrap.fill("; ".join(parts), int(WIDTH / 0.062))


def save_plots(groups: Sequence[Group], out: Path) -> list[Plot]:
    """Draw every plot that there are metrics for into ``out``, as PNG and SVG."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plots = plots_of(groups)
    # A context, and figures of its own: whoever imports this keeps their backend and settings.
    with matplotlib.rc_context(RC), warnings.catch_warnings():
        # A box in the PNG; the SVG, which the page shows, has the letter itself.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from")
        for plot in plots:
            figure = Figure(layout="constrained")
            FigureCanvasAgg(figure)
            draw(figure, groups, plot)
            for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
                with atomic_path(out / (plot.stem + suffix)) as temporary:
                    figure.savefig(temporary, format=suffix[1:], dpi=150, metadata=metadata)
                # Laid out once; the second file takes the places as they are.
                figure.set_layout_engine("none")
    return plots


def draw(figure: Figure, groups: Sequence[Group], plot: Plot) -> None:
    """Panels side by side, one legend for all of them below."""
    panels = plot.panels
    columns = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    rows = -(-len(panels) // columns)
    names = {name for panel in panels for name in panel.lines}
    beside = max(1, min(5, int(WIDTH / (0.72 + _LETTER * max(map(len, names), default=0)))))
    legend = -(-len(names) // beside) if len(names) > 1 else 0
    figure.set_size_inches(WIDTH, (HEIGHT if rows > 1 or columns > 1 else 3.8) * rows + 0.8 + 0.2 * legend)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid, panels, strict=False):
        _draw_panel(axes, panel, plot.names)
    pairs = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes)
    handles = {name: handle for one in pairs for handle, name in one if legend}
    # The caption is the legend's title, as the layout lets two things below the panels overlap.
    key = figure.legend(
        handles.values(),
        handles.keys(),
        title=_caption(groups),
        title_fontproperties={"size": 8},
        **{"loc": "outside lower left", "alignment": "left", "ncols": beside, "frameon": False, "fontsize": 10},
    )
    key.get_title().set_color("#666666")
    figure.suptitle(common_title(groups) or "Accuracy", fontsize=13, x=0.02, ha="left")


def _draw_panel(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    """Means with standard errors; over several runs a band between the lowest and the highest.

    A line looks by its position among ``names``, so the same in all panels and plots.
    """
    from matplotlib.ticker import MaxNLocator

    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set(xlabel="iteration (0: untouched base)", ylabel=panel.up)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for name, by_iteration in panel.lines.items():
        xs, points, (dashes, turn) = [*by_iteration], by_iteration.values(), divmod(names.index(name), len(_COLOURS))
        look = {"color": _COLOURS[turn], "linestyle": _DASHES[dashes % len(_DASHES)]}
        value, se, low, high = ([panel.scale * p[key] for p in points] for key in ("value", "se", "low", "high"))
        if any(point["runs"] > 1 for point in points):
            axes.fill_between(xs, low, high, color=look["color"], alpha=0.13, linewidth=0, zorder=1)
        mark = {"marker": _MARKERS[turn], "markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.6, **look}
        axes.errorbar(xs, value, yerr=se, label=name, elinewidth=1.0, capsize=2, zorder=3, linewidth=1.6, **mark)
        if xs == [0]:  # what is not trained, for comparison
            axes.axhline(value[0], linewidth=0.7, alpha=0.5, **look)
