"""Lines of recipes: one look each, axes for every task and model, bands over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcmaf.report.groups import Group, Point
from hpcmaf.report.plots import FAINT, frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito again, the strongest first; yellow is too faint for a line.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#333333")
_MARKERS = "osD^vPX"
_DASHES = ("-", "--", ":")
# Beyond these a legend is no longer read; the rest stays as faint lines.
MOST_NAMED = 12
MOST_PLACES = 6
# Inches of a letter in the legend.
_LETTER = 0.058


@dataclass(frozen=True, slots=True)
class Style:
    """Look of a line; one without a name is faint and not in the legend.

    Attributes
    ----------
    compared
        Whether a line without a name is one to compare with, which the axes
        make room for all the same.
    """

    colour: str
    marker: str
    dashes: str
    name: str | None
    compared: bool = False


def styles_of(groups: Sequence[Group]) -> dict[str, Style]:
    """A look for each line, the same in every plot; the best at the end are named if not all can be."""
    ends: dict[str, float] = {}
    for group in groups:
        point = group.point(group.complete[-1])
        ends[group.line] = max(ends.get(group.line, 0.0), point.value if point else 0.0)
    named = sorted(sorted(ends, key=lambda line: -ends[line])[:MOST_NAMED])
    return {
        line: Style(
            _COLOURS[at % len(_COLOURS)],
            _MARKERS[at % len(_MARKERS)],
            _DASHES[at // len(_COLOURS) % len(_DASHES)],
            line,
        )
        for at, line in enumerate(named)
    } | {line: Style("#cfcfcf", "", "-", None) for line in ends if line not in named}


def grid_of(figure: Figure, groups: Sequence[Group], rows: int) -> Iterator[tuple[int, tuple[str, str], Axes]]:
    """Axes for each figure and place (task and model): number of the figure, place, axes."""
    places = list(dict.fromkeys(group.place for group in groups))[:MOST_PLACES]
    # Of one task and model, figures stand side by side instead of in a tower.
    columns = min(rows, 1 if rows == 1 else 3 if rows % 3 == 0 else 2) if len(places) == 1 else len(places)
    lines = -(-rows * len(places) // columns)
    width, height = (6.4, 4.0) if columns == lines == 1 else (4.6, 3.1)
    # Beside the axes, names as long as they are: a legend must not eat the plot.
    longest = max((len(style.name) for style in styles_of(groups).values() if style.name), default=0)
    figure.set_size_inches(width * columns + max(1.6, 0.6 + _LETTER * longest), height * lines + 0.9)
    grid = figure.subplots(lines, columns, squeeze=False).flat
    for axes in grid[rows * len(places) :]:
        axes.set_visible(False)
    for row in range(rows):
        for at, place in enumerate(places):
            axes = grid[row * len(places) + at]
            axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
            axes.set_axisbelow(True)
            if len(places) > 1 and row == 0:
                axes.set_title(" · ".join(place), fontsize=10, loc="left")
            yield row, place, axes


@contextmanager
def room_for(axes: Axes, style: Style) -> Iterator[None]:
    """Draw without widening the axes, if the line has no name: a collapsed method would leave the others no room."""
    limits = None if style.name is not None or style.compared else axes.dataLim.frozen()
    yield
    if limits is not None:
        axes.dataLim.set(limits)
        axes.autoscale_view()


def draw_line(axes: Axes, style: Style, xs: Sequence[float], points: Sequence[Point], scale: float = 100.0) -> None:
    """Means with standard errors; over several runs a band between the lowest and the highest."""
    values = [scale * point.value for point in points]
    if style.name is not None and any(point.runs > 1 for point in points):
        low, high = [scale * p.low for p in points], [scale * p.high for p in points]
        axes.fill_between(xs, low, high, color=style.colour, alpha=0.13, linewidth=0, zorder=1)
    with room_for(axes, style):
        axes.errorbar(
            xs,
            values,
            yerr=[scale * point.se for point in points] if style.name is not None else None,
            color=style.colour,
            marker=style.marker or None,
            linestyle=style.dashes,
            label=style.name,
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linewidth=1.6 if style.name else 0.8,
            elinewidth=1.0,
            capsize=2,
            zorder=3 if style.name else 2,
        )


def finish(figure: Figure, groups: Sequence[Group], caption: str) -> None:
    """Legend, title and caption; says where nothing was measured."""
    handles: dict[str, object] = {}
    for axes in figure.axes:
        if axes.get_visible() and not axes.has_data():
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=FAINT)
            axes.set(xticks=[], yticks=[])
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if len(handles) > 1:
        figure.legend(handles.values(), handles, loc="outside right upper", frameon=False, fontsize=8)
    places = len({group.place for group in groups})
    if places > MOST_PLACES:
        caption += f"; the first {MOST_PLACES} of {places} tasks and models"
    if len({group.line for group in groups}) > MOST_NAMED:
        caption += f"; grey, as far as it fits: all but the {MOST_NAMED} most accurate"
    frame(figure, groups, caption)
