"""What runs show, drawn: panels of one size, a line per recipe that looks the same in all of them."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hpcmaf.evaluation import MEASURES
from hpcmaf.files.publish import atomic_path
from hpcmaf.report.behaviour import DIVERSITY
from hpcmaf.report.cost import spent
from hpcmaf.report.groups import Group, Point, common_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito, which the colour-blind tell apart, but for yellow, too faint for a line; markers and
# dashes say the same once more.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#333333")
_MARKERS = "osD^vPX"
_DASHES = ("-", "--", ":")
# Beyond these a legend is no longer read.
MOST_NAMED = 12
MOST_PANELS = 6
# Inches: of every plot, of a panel, of a letter in the legend.
WIDTH, HEIGHT, _LETTER = 9.0, 3.1, 0.072
RC = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "hpcmaf",
    # Letters as text: smaller, they can be searched, and a browser has fonts of its own.
    "svg.fonttype": "none",
}
_SE = "bars: standard error over problems"
BARS = f"{_SE}; bands: lowest to highest run"
_ITERATION, _ACCURACY = "iteration (0: untouched base)", "accuracy (%)"
# x and value of each point of a line; None where there is none.
Points = Iterable[tuple[float, Point | None]]


class Line(NamedTuple):
    """What is drawn of a recipe in a panel, and how: ``look`` is in matplotlib's words."""

    name: str
    look: Mapping[str, str]
    xs: Sequence[float]
    points: Sequence[Point]


class Panel(NamedTuple):
    """Axes and their lines.

    ``scale`` is what values are multiplied by; ``counted`` says whether x is
    a number to be counted, the same in all runs. Panels of one ``place``
    (task and model) with the same values over iterations have one scale.
    """

    title: str
    across: str
    up: str
    lines: Sequence[Line]
    place: tuple[str, ...] = ()
    scale: float = 100.0
    counted: bool = True


class Plot(NamedTuple):
    """One picture: its file's stem, what it shows, how to read it."""

    stem: str
    about: str
    panels: Sequence[Panel]
    caption: str


def plots_of(groups: Sequence[Group]) -> list[Plot]:
    """Every plot that there are metrics for, of the recipes that are the most accurate at the end."""
    ends: dict[str, float] = {}
    for group in groups:
        if point := group.point(group.last):
            ends[group.line] = max(ends.get(group.line, 0.0), point["value"])
    best = sorted(ends, key=lambda line: -ends[line])[:MOST_NAMED]
    shown = [group for group in groups if group.line in best]

    places = list(dict.fromkeys(group.place for group in groups))

    def plot(stem: str, about: str, panels: Sequence[Panel], note: str = BARS) -> Plot:
        ordered = sorted(panels, key=lambda panel: places.index(panel.place))
        return Plot(stem, about, ordered, _caption(shown or groups, note, len(ends)))

    found = [plot("accuracy", "Accuracy over iterations, by way of answering", _accuracy(shown))]
    if len(shown) > 1:
        own = _over_iterations(shown, _ACCURACY, lambda group, t: group.point(t))
        found.append(plot("methods", "Accuracy of each method over iterations, answering in its own way", own))
    diversity = _diversity(shown)
    by_models = any(panel.up != DIVERSITY["disagreement"] for panel in diversity)
    sampled = BARS + "; what models measure: on a sample of the problems" * by_models
    found += [
        plot("diversity", "Diversity over iterations", diversity, sampled),
        plot("cost", "Accuracy against cost", _cost(shown), f"evaluation is not counted as cost; {_SE}"),
    ]
    # The first is there in any case: of a run that has just begun it says so.
    return [one for one in found if one.panels or one.stem == "accuracy"]


def _caption(groups: Sequence[Group], note: str, recipes: int) -> str:
    counts = sorted({i.metrics["problems"] for group in groups for run in group.runs for i in run.evaluated})
    parts = [f"{' or '.join(f'{count:,}' for count in counts)} evaluation problems"] if counts else []
    runs = sorted({len(group.runs) for group in groups})
    if runs[-1] > 1:
        parts.append(f"mean of {runs[0] if len(runs) == 1 else f'{runs[0]} to {runs[-1]}'} runs")
    parts.append(note if runs[-1] > 1 else note.replace(BARS, _SE))
    places = len({group.place for group in groups})
    if places > MOST_PANELS:
        parts.append(f"the first {MOST_PANELS} of {places} tasks and models")
    if recipes > MOST_NAMED:
        parts.append(f"the {MOST_NAMED} most accurate of {recipes} recipes")
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
            draw(figure, common_title(groups) or "Accuracy", plot)
            for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
                with atomic_path(out / (plot.stem + suffix)) as temporary:
                    figure.savefig(temporary, format=suffix[1:], dpi=150, metadata=metadata)
                # Laid out once; the second file takes the places as they are.
                figure.set_layout_engine("none")
    return plots


# --- what is in each ----------------------------------------------------------------------------------------------


def _look(at: int) -> dict[str, str]:
    turn, dashes = at % len(_COLOURS), _DASHES[at // len(_COLOURS) % len(_DASHES)]
    return {"color": _COLOURS[turn], "marker": _MARKERS[turn], "linestyle": dashes}


def _line(name: str, at: int, points: Points) -> Line | None:
    known = [(x, point) for x, point in points if point]
    return Line(name, _look(at), [x for x, _ in known], [point for _, point in known]) if known else None


def _panels(
    groups: Sequence[Group],
    across: str,
    up: str,
    points: Callable[[Group], Points],
    title: str = "",
    **more: float | bool,
) -> list[Panel]:
    """A panel for each task and model, where any group has points; a recipe looks the same in all of them."""
    looks = {line: at for at, line in enumerate(sorted({group.line for group in groups}))}
    places = list(dict.fromkeys(group.place for group in groups))
    found = []
    for place in places[:MOST_PANELS]:
        here = [group for group in groups if group.place == place]
        lines = [line for group in here if (line := _line(group.line, looks[group.line], points(group)))]
        if lines:
            of_place = place if len(places) > 1 else ()
            found.append(Panel(" · ".join(filter(None, (title, *of_place))), across, up, lines, place, **more))
    return found


def _over_iterations(
    groups: Sequence[Group], up: str, read: Callable[[Group, int], Point | None], title: str = "", scale: float = 100.0
) -> list[Panel]:
    return _panels(groups, _ITERATION, up, lambda g: ((t, read(g, t)) for t in g.complete), title, scale=scale)


def _accuracy(groups: Sequence[Group]) -> list[Panel]:
    """One recipe's ways of answering in a panel; of several recipes a panel for each way."""
    if len(groups) == 1:
        (group,) = groups
        lines = [
            _line(title, at, ((t, group.point(t, name)) for t in group.complete))
            for at, (name, title) in enumerate(MEASURES.items())
        ]
        return [Panel("", _ITERATION, _ACCURACY, [line for line in lines if line], group.place)]
    return [
        panel
        for name, title in MEASURES.items()
        for panel in _over_iterations(groups, _ACCURACY, lambda g, t, name=name: g.point(t, name), title)
    ]


def _diversity(groups: Sequence[Group]) -> list[Panel]:
    reads = {name: (lambda g, t, name=name: g.over(t, lambda i: i.diverse(name))) for name in DIVERSITY}
    return [panel for name, up in DIVERSITY.items() for panel in _over_iterations(groups, up, reads[name], scale=1.0)]


def _cost(groups: Sequence[Group]) -> list[Panel]:
    """Accuracy against what the models cost, and against what an answer costs."""
    costs = {group.label: {t: cost for t in group.complete if (cost := spent(group, t))} for group in groups}
    on_gpu = any(cost["gpu_seconds"] for one in costs.values() for cost in one.values())
    time = "gpu_seconds" if on_gpu else "wall_seconds"

    def made(group: Group, *names: str) -> Points:
        return ((sum(cost[name] for name in names), group.point(t)) for t, cost in costs[group.label].items())

    def answer(group: Group) -> Points:
        last = costs[group.label].get(group.last)
        return ((last[name], group.point(group.last, name)) for name in (MEASURES if last else ()))

    return [
        panel
        for across, points in (
            ("tokens debated and trained on so far", lambda g: made(g, "generated", "trained")),
            ("GPU-seconds so far" if on_gpu else "seconds of jobs so far (no GPU)", lambda g: made(g, time)),
            ("tokens per answer, by its way", answer),
        )
        for panel in _panels(groups, across, _ACCURACY, points, counted=False)
    ]


# --- how it is drawn ----------------------------------------------------------------------------------------------


def draw(figure: Figure, title: str, plot: Plot) -> None:
    """Panels side by side, one legend for all of them below."""
    panels = plot.panels or [Panel("", _ITERATION, _ACCURACY, [])]
    columns = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    rows = -(-len(panels) // columns)
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    beside = max(1, min(5, int(WIDTH / (0.72 + _LETTER * max(map(len, names), default=0)))))
    legend = -(-len(names) // beside) if len(names) > 1 else 0
    figure.set_size_inches(WIDTH, (HEIGHT if rows > 1 or columns > 1 else 3.8) * rows + 0.8 + 0.2 * legend)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    handles: dict[str, object] = {}
    alike: dict[tuple[object, ...], Axes] = {}
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid, panels, strict=False):
        scale = (panel.up, panel.place, panel.counted or panel.across)
        if (first := alike.setdefault(scale, axes)) is not axes:
            axes.sharey(first)
        _draw_panel(axes, panel, columns)
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True)) | handles
    # The caption is the legend's title, as the layout lets two things below the panels overlap.
    key = figure.legend(
        [handles[name] for name in names if legend],
        names if legend else [],
        title=plot.caption,
        title_fontproperties={"size": 8},
        **{"loc": "outside lower left", "alignment": "left", "ncols": beside, "frameon": False, "fontsize": 10},
    )
    key.get_title().set_color("#666666")
    figure.suptitle(title, fontsize=13, x=0.02, ha="left")


def _draw_panel(axes: Axes, panel: Panel, columns: int) -> None:
    """Means with standard errors; over several runs a band between the lowest and the highest."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set(xlabel=panel.across, ylabel=panel.up)
    if panel.counted:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    elif max((x for line in panel.lines for x in line.xs), default=0) > 1:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    # Side by side, so that error bars do not hide one another.
    longest = max((max(line.xs) for line in panel.lines), default=0)
    gap = min(0.006 * columns * max(1, longest), 0.3 / max(1, len(panel.lines))) if panel.counted else 0.0
    for at, line in enumerate(panel.lines):
        shift = gap * (at - (len(panel.lines) - 1) / 2)
        xs, colour = [x + shift for x in line.xs], line.look["color"]
        value, se, low, high = ([panel.scale * p[key] for p in line.points] for key in ("value", "se", "low", "high"))
        if panel.counted and any(point["runs"] > 1 for point in line.points):
            axes.fill_between(xs, low, high, color=colour, alpha=0.13, linewidth=0, zorder=1)
        size = {"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.6, "linewidth": 1.6}
        axes.errorbar(xs, value, yerr=se, label=line.name, elinewidth=1.0, capsize=2, zorder=3, **line.look, **size)
        if panel.across == _ITERATION and list(line.xs) == [0]:  # what is not trained, for comparison
            axes.axhline(value[0], color=colour, linestyle=line.look["linestyle"], linewidth=0.7, alpha=0.5)
    if not panel.lines:
        axes.text(0.5, 0.5, "no iteration evaluated yet", transform=axes.transAxes, ha="center")
        axes.set(xticks=[], yticks=[])
