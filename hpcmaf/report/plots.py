"""What runs show, drawn: panels of one size, a line per recipe that looks the same in all of them."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpcmaf.evaluation import MEASURES
from hpcmaf.files.publish import atomic_path
from hpcmaf.report.behaviour import DIVERSITY
from hpcmaf.report.groups import Group, Point, common_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GREY = "#333333", "#8a8a8a", "#cfcfcf"
# Colours of Okabe and Ito, which the colour-blind tell apart, but for yellow, too faint for a line; markers and
# dashes say the same once more.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#333333")
_MARKERS = "osD^vPX"
_DASHES = ("-", "--", ":")
# Beyond these a legend is no longer read; the rest stays as grey lines.
MOST_NAMED = 12
MOST_PANELS = 6
# Inches: of every plot, of a panel, of a letter in the legend.
WIDTH, HEIGHT, _LETTER = 9.0, 3.1, 0.072
# Letters that a font lacks are taken from the next that is installed.
FONTS = (
    *("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC", "Microsoft YaHei"),
    *("Noto Sans Devanagari", "Noto Sans Arabic", "Unifont"),
)
RC = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "svg.hashsalt": "hpcmaf",
    # Letters as text: smaller, they can be searched, and a browser has fonts of its own.
    "svg.fonttype": "none",
}
_SE = "bars: standard error over problems"
BARS = f"{_SE}; bands: lowest to highest run"
_ITERATION = "iteration (0: untouched base)"


@dataclass(frozen=True, slots=True)
class Style:
    """Look of a line; one without a name is grey and not in the legend."""

    colour: str
    marker: str
    dashes: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Line:
    """What is drawn of a recipe in a panel."""

    style: Style
    xs: Sequence[float]
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Panel:
    """Axes and their lines.

    Attributes
    ----------
    scale
        What values are multiplied by.
    counted
        Whether x is a number to be counted, the same in all runs.
    """

    title: str
    across: str
    up: str
    lines: Sequence[Line]
    scale: float = 100.0
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture: its file's stem, what it shows, how to read it."""

    stem: str
    about: str
    panels: Sequence[Panel]
    caption: str = BARS


def styles_of(groups: Sequence[Group]) -> dict[str, Style]:
    """A look for each recipe, the same in every plot; the best at the end are named if not all can be."""
    ends: dict[str, float] = {}
    for group in groups:
        point = group.point(group.complete[-1])
        ends[group.line] = max(ends.get(group.line, 0.0), point.value if point else 0.0)
    named = sorted(sorted(ends, key=lambda line: -ends[line])[:MOST_NAMED])
    looks = {line: _look(at, line) for at, line in enumerate(named)}
    return looks | {line: Style(GREY, "", "-", None) for line in ends if line not in named}


def _look(at: int, name: str) -> Style:
    turn = at % len(_COLOURS)
    return Style(_COLOURS[turn], _MARKERS[turn], _DASHES[at // len(_COLOURS) % len(_DASHES)], name)


def plots_of(groups: Sequence[Group]) -> list[Plot]:
    """Every plot that there are metrics for."""
    shown = [group for group in groups if group.complete]
    found = [Plot("accuracy", "Accuracy over iterations, by way of answering", _accuracy(shown))]
    if len(shown) > 1:
        own = _over_iterations(shown, "accuracy (%)", lambda group, t: group.point(t))
        found.append(Plot("methods", "Accuracy of each method over iterations, answering in its own way", own))
    found += [
        Plot("diversity", "Diversity over iterations", _diversity(shown)),
        Plot("tradeoff", "Accuracy against diversity", _tradeoff(shown), f"from iteration to iteration; {_SE}"),
        Plot("rounds", "Accuracy over rounds", _rounds(shown), f"after the last iteration; {BARS}"),
        Plot("answers", "pass@k and majority@k", _answers(shown), f"after the last iteration; {BARS}"),
        Plot("cost", "Accuracy against cost", _cost(shown), f"evaluation is not counted as cost; {_SE}"),
    ]
    # The first is there in any case: of a run that has just begun it says so.
    return [plot for plot in found if plot.panels or plot.stem == "accuracy"]


def save_plots(groups: Sequence[Group], out: Path) -> list[Plot]:
    """Draw every plot that there are metrics for into ``out``, as PNG and SVG."""
    plots = plots_of(groups)
    for plot in plots:
        save(lambda figure, plot=plot: draw(figure, groups, plot), out / plot.stem)
    return plots


def save(draw: Callable[[Figure], None], stem: Path) -> None:
    """Draw a figure into ``stem``.png and ``stem``.svg."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    # A figure of its own and a context: whoever imports this keeps their backend and settings.
    font = {"font.family": [name for name in FONTS if name in installed]}
    with matplotlib.rc_context(RC | font), warnings.catch_warnings():
        # A box in the PNG; the SVG, which the page shows, has the letter itself.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from")
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
            with atomic_path(stem.with_name(stem.name + suffix)) as temporary:
                figure.savefig(temporary, format=suffix[1:], dpi=150, metadata=metadata)
            # Laid out once; the second file takes the places as they are.
            figure.set_layout_engine("none")


# --- what is in each ----------------------------------------------------------------------------------------------


def _settings(groups: Sequence[Group]) -> Iterator[tuple[str, list[Group]]]:
    """Tasks and models, and their groups; a title only where there are several."""
    places = list(dict.fromkeys(group.place for group in groups))
    for place in places[:MOST_PANELS]:
        yield " · ".join(place) if len(places) > 1 else "", [group for group in groups if group.place == place]


def _panels(
    groups: Sequence[Group],
    across: str,
    up: str,
    line: Callable[[Group], Iterable[tuple[float, Point | None]]],
    title: str = "",
    **more: float | bool,
) -> list[Panel]:
    """A panel for each place: ``line`` gives x and point of a group's line, where it has any."""
    styles, found = styles_of(groups), []
    for place, here in _settings(groups):
        lines = []
        for group in here:
            known = [(x, point) for x, point in line(group) if point]
            if known:
                lines.append(Line(styles[group.line], [x for x, _ in known], [point for _, point in known]))
        if lines:
            found.append(Panel(" · ".join(filter(None, (title, place))), across, up, lines, **more))
    return found


def _over_iterations(
    groups: Sequence[Group], up: str, read: Callable[[Group, int], Point | None], title: str = "", scale: float = 100.0
) -> list[Panel]:
    return _panels(groups, _ITERATION, up, lambda g: ((t, read(g, t)) for t in g.complete), title, scale=scale)


def _accuracy(groups: Sequence[Group]) -> list[Panel]:
    """One recipe's ways of answering in a panel; of several recipes a panel for each way."""
    if len(groups) == 1:
        (group,) = groups
        lines = []
        for at, (name, title) in enumerate(MEASURES.items()):
            known = [(t, point) for t in group.complete if (point := group.point(t, name))]
            if known:
                lines.append(Line(_look(at, title), [t for t, _ in known], [point for _, point in known]))
        return [Panel("", _ITERATION, "accuracy (%)", lines)]
    return [
        panel
        for name, title in MEASURES.items()
        for panel in _over_iterations(groups, "accuracy (%)", lambda g, t, name=name: g.point(t, name), title)
    ]


def _diversity(groups: Sequence[Group]) -> list[Panel]:
    return [
        panel
        for name, title in DIVERSITY.items()
        for panel in _over_iterations(
            groups, title, lambda g, t, name=name: g.over(t, lambda i: i.diverse(name)), scale=1.0
        )
    ]


def _tradeoff(groups: Sequence[Group]) -> list[Panel]:
    def line(group: Group) -> Iterator[tuple[float, Point | None]]:
        for t in group.complete:
            if across := group.over(t, lambda i: i.diverse("disagreement")):
                yield across.value, group.point(t)

    return _panels(groups, "diversity: 1 − consensus", "accuracy (%)", line, counted=False)


def _rounds(groups: Sequence[Group]) -> list[Panel]:
    """Vote and mean agent over rounds, after the last iteration."""

    def line(group: Group, key: str) -> list[tuple[int, Point | None]]:
        t = group.complete[-1]
        most = max((len(i.metrics["rounds"]) for i in group.at(t) if i.metrics), default=0)
        reads = [
            lambda i, m=m: i.metrics["rounds"][m][key] if m < len(i.metrics["rounds"]) else None for m in range(most)
        ]
        return [(m, group.over(t, read)) for m, read in enumerate(reads, start=1)] if most > 1 else []

    return [
        panel
        for key, up in (("vote", "the round's vote (%)"), ("mean", "mean agent (%)"))
        for panel in _panels(groups, "round", up, lambda g, key=key: line(g, key))
    ]


def _answers(groups: Sequence[Group]) -> list[Panel]:
    """What k answers of the first round are good for, after the last iteration."""

    def line(group: Group, kind: str) -> list[tuple[int, Point | None]]:
        t = group.complete[-1]
        ks = [i.metrics["curves"][0]["k"] if i.metrics and i.metrics.get("curves") else [] for i in group.at(t)]
        if not ks or len(ks[0]) < 2 or any(one != ks[0] for one in ks):
            return []
        return [(k, group.over(t, lambda i, at=at: i.metrics["curves"][0][kind][at])) for at, k in enumerate(ks[0])]

    return [
        panel
        for kind in ("pass", "majority")
        for panel in _panels(groups, "k of the agents' first answers", f"{kind}@k (%)", lambda g, k=kind: line(g, k))
    ]


def _cost(groups: Sequence[Group]) -> list[Panel]:
    """Accuracy against what the models cost, and against what an answer costs."""
    spent = {id(group): {t: cost for t in group.complete if (cost := group.spent(t))} for group in groups}
    on_gpu = any(cost["gpu_seconds"] for one in spent.values() for cost in one.values())
    time = "gpu_seconds" if on_gpu else "wall_seconds"
    across = "GPU-seconds so far" if on_gpu else "seconds of jobs so far (no GPU)"

    def made(group: Group, *names: str) -> list[tuple[float, Point | None]]:
        return [(sum(cost[name] for name in names), group.point(t)) for t, cost in spent[id(group)].items()]

    def answer(group: Group) -> list[tuple[float, Point | None]]:
        last = max(spent[id(group)], default=None)
        return [] if last is None else [(spent[id(group)][last][name], group.point(last, name)) for name in MEASURES]

    return [
        panel
        for title, line in (
            ("tokens debated and trained on so far", lambda g: made(g, "generated", "trained")),
            (across, lambda g: made(g, time)),
            ("tokens per answer, by its way", answer),
        )
        for panel in _panels(groups, title, "accuracy (%)", line, counted=False)
    ]


# --- how it is drawn ----------------------------------------------------------------------------------------------


def draw(figure: Figure, groups: Sequence[Group], plot: Plot) -> None:
    """Panels side by side, one legend for all of them below."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    panels = plot.panels or [Panel("", _ITERATION, "accuracy (%)", [])]
    columns = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    rows = -(-len(panels) // columns)
    names = list(dict.fromkeys(line.style.name for panel in panels for line in panel.lines if line.style.name))
    beside = max(1, min(5, int(WIDTH / (0.72 + _LETTER * max(map(len, names), default=0)))))
    legend = -(-len(names) // beside) if len(names) > 1 else 0
    figure.set_size_inches(WIDTH, (HEIGHT if rows > 1 or columns > 1 else 3.8) * rows + 0.8 + 0.2 * legend)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    handles: dict[str, object] = {}
    for axes, panel in zip(grid, [*panels, *[None] * (rows * columns - len(panels))], strict=True):
        if panel is None:
            axes.set_visible(False)
            continue
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_title(panel.title, fontsize=10, loc="left")
        axes.set(xlabel=panel.across, ylabel=panel.up)
        if panel.counted:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        elif max((x for line in panel.lines for x in line.xs), default=0) > 1:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        # Side by side, so that error bars do not hide one another.
        step = 0.012 if panel.counted and len(panel.lines) <= MOST_NAMED else 0.0
        for at, line in enumerate(panel.lines):
            shift = step * (at - (len(panel.lines) - 1) / 2)
            draw_line(axes, replace(line, xs=[x + shift for x in line.xs]), panel.scale, bands=panel.counted)
            if panel.across == _ITERATION and list(line.xs) == [0]:  # what is not trained, for comparison
                level = panel.scale * line.points[0].value
                axes.axhline(level, color=line.style.colour, linestyle=line.style.dashes, linewidth=0.7, alpha=0.5)
        if not panel.lines:
            axes.text(0.5, 0.5, "no iteration evaluated yet", transform=axes.transAxes, ha="center", color=FAINT)
            axes.set(xticks=[], yticks=[])
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    order = sorted(handles) if len(groups) > 1 else list(handles)
    # The caption is the legend's title, as the layout lets two things below the panels overlap.
    key = figure.legend(
        [handles[name] for name in order if legend],
        order if legend else [],
        title=_caption(groups, plot.caption),
        title_fontproperties={"size": 8},
        **{"loc": "outside lower left", "alignment": "left", "ncols": beside, "frameon": False, "fontsize": 10},
    )
    key.get_title().set_color("#666666")
    figure.suptitle(common_title(groups) or "Accuracy", fontsize=13, x=0.02, ha="left")


def _caption(groups: Sequence[Group], caption: str) -> str:
    counts = sorted(set().union(*(group.problems for group in groups)))
    parts = [f"{' or '.join(f'{count:,}' for count in counts)} evaluation problems"] if counts else []
    runs = sorted({len(group.runs) for group in groups})
    if runs[-1] > 1:
        parts.append(f"mean of {runs[0] if len(runs) == 1 else f'{runs[0]} to {runs[-1]}'} runs")
    parts.append(caption if runs[-1] > 1 else caption.replace(BARS, _SE))
    places = len({group.place for group in groups})
    if places > MOST_PANELS:
        parts.append(f"the first {MOST_PANELS} of {places} tasks and models")
    if len({group.line for group in groups}) > MOST_NAMED:
        parts.append(f"grey, as far as it fits: all but the {MOST_NAMED} most accurate")
    return textwrap.fill("; ".join(parts), int(WIDTH / 0.062))


def draw_line(axes: Axes, line: Line, scale: float = 100.0, *, bands: bool = True) -> None:
    """Means with standard errors; over several runs a band between the lowest and the highest."""
    style, points = line.style, line.points
    named = style.name is not None
    if bands and named and any(point.runs > 1 for point in points):
        low, high = [scale * p.low for p in points], [scale * p.high for p in points]
        axes.fill_between(line.xs, low, high, color=style.colour, alpha=0.13, linewidth=0, zorder=1)
    limits = None if named else axes.dataLim.frozen()
    axes.errorbar(
        line.xs,
        [scale * point.value for point in points],
        yerr=[scale * point.se for point in points] if named else None,
        color=style.colour,
        marker=style.marker or None,
        linestyle=style.dashes,
        label=style.name,
        markersize=5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linewidth=1.6 if named else 0.8,
        elinewidth=1.0,
        capsize=2,
        zorder=3 if named else 2,
    )
    if limits is not None:
        # A collapsed method would leave the others no room.
        axes.dataLim.set(limits)
        axes.autoscale_view()
