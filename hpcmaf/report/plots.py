"""Accuracy over iterations, drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpcmaf.evaluation import MEASURES
from hpcmaf.publish import atomic_path
from hpcmaf.report.groups import Group, Point, common_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito, which the colour-blind tell apart; markers and
# labels say the same once more.
STYLE = {
    "answer": ("#009E73", "^"),
    "vote@1": ("#0072B2", "s"),
    "vote@M": ("#D55E00", "o"),
}
INK, FAINT = "#333333", "#8a8a8a"
# Side by side, so that error bars do not hide one another (in iterations).
SHIFT = {"answer": 0.05, "vote@1": 0.0, "vote@M": -0.05}
# More panels than this are no longer read; then one line per recipe is drawn.
MOST_PANELS = 9
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
    # Letters as text: smaller, and they can be searched.
    "svg.fonttype": "none",
}


def save_accuracy(groups: Sequence[Group], stem: Path) -> None:
    """Draw accuracy over iterations into ``stem``.png and ``stem``.svg.

    A recipe's panel shows each way of answering with its standard error over
    problems; over several seeds the mean, each seed as a thin line, and the
    range between the lowest and the highest. With many recipes the debate's
    accuracy before and after takes one line each.
    """
    save(lambda figure: (_panels if len(groups) <= MOST_PANELS else _before_and_after)(figure, groups), stem)


def save(draw: Callable[[Figure], None], stem: Path) -> None:
    """Draw a figure into ``stem``.png and ``stem``.svg."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A figure of its own and a context: whoever imports this keeps their
    # backend and settings.
    with matplotlib.rc_context(RC):
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
            with atomic_path(stem.with_name(stem.name + suffix)) as temporary:
                figure.savefig(temporary, format=suffix[1:], dpi=150, metadata=metadata)
            # Laid out once; the second file takes the places as they are.
            figure.set_layout_engine("none")


def _panels(figure: Figure, groups: Sequence[Group]) -> None:
    columns = math.ceil(math.sqrt(len(groups)))
    rows = math.ceil(len(groups) / columns)
    figure.set_size_inches((7.2, 4.6) if len(groups) == 1 else (5.2 * columns, 3.6 * rows + 0.6))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    last = max([0, *(t for group in groups for t in (group.planned, *group.iterations))])
    grid[0, 0].set_xlim(-0.25 if last else -0.5, last + (0.25 if last else 0.5))
    for axes, group in zip(grid.flat, groups, strict=False):
        _draw(axes, group)
        if len(groups) > 1:
            axes.set_title(group.label, fontsize=10, loc="left")
    for axes in grid.flat[len(groups) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy (%)")
    # Labels last: only now are the limits of the shared axis known.
    for axes, group in zip(grid.flat, groups, strict=False):
        _label_lines(axes, group)
    frame(figure, groups, _caption(groups, "; thin lines: single runs, band: their range"))


def _caption(groups: Sequence[Group], several: str) -> str:
    """What is drawn; ``several`` says how more than one run shows."""
    counts = sorted(set().union(*(group.problems for group in groups)))
    parts = [f"{' or '.join(f'{count:,}' for count in counts)} evaluation problems"] if counts else []
    parts.append("bars: standard error over problems")
    runs = sorted({len(group.runs) for group in groups})
    if runs[-1] > 1:
        number = str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
        parts.append(f"mean of {number} runs{several}")
    return "; ".join(parts)


def frame(figure: Figure, groups: Sequence[Group], caption: str) -> None:
    """Title above and caption below, flush left."""
    figure.suptitle(common_title(groups) or "Accuracy", fontsize=12, x=0.02, ha="left", weight="bold")
    figure.supxlabel(caption, fontsize=8, color="#666666", x=0.02, ha="left")


def _draw(axes: Axes, group: Group) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("iteration (0: untouched base)")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelbottom=True)  # also where a panel below shares the axis
    if not group.iterations:
        axes.text(0.5, 0.5, "no iteration evaluated yet", transform=axes.transAxes, ha="center", color=FAINT)
        axes.set_yticks([])
        return
    base = group.point(0)
    if base is not None:
        axes.axhline(100 * base.value, color=STYLE["vote@M"][0], linestyle=":", linewidth=1.2, zorder=1)
    for measure, (color, marker) in STYLE.items():
        points = [(t, point) for t in group.complete if (point := group.point(t, measure))]
        times = [t + SHIFT[measure] for t, _ in points]
        if len(group.runs) > 1:
            for run in group.runs:
                line = [(i.number + SHIFT[measure], i.accuracy(measure)) for i in run.evaluated]
                axes.plot(
                    [t for t, _ in line],
                    [100 * one["value"] for _, one in line if one],
                    color=color,
                    alpha=0.35,
                    linewidth=0.8,
                    zorder=2,
                )
            low, high = [100 * p.low for _, p in points], [100 * p.high for _, p in points]
            axes.fill_between(times, low, high, color=color, alpha=0.13, linewidth=0, zorder=1)
        axes.errorbar(
            times,
            [100 * point.value for _, point in points],
            yerr=[100 * point.se for _, point in points],
            color=color,
            marker=marker,
            markersize=5.5,
            markeredgecolor="white",
            markeredgewidth=0.8,
            linewidth=1.8,
            elinewidth=1.2,
            capsize=2.5,
            zorder=3,
        )


def _label_lines(axes: Axes, group: Group) -> None:
    """Write each line's name at its end, pushed apart where lines meet."""
    ends = []
    for measure in STYLE:
        points = [(t, point) for t in group.complete if (point := group.point(t, measure))]
        if points:
            ends.append((100 * points[-1][1].value, MEASURES[measure], STYLE[measure][0]))
    base = group.point(0)
    if base is not None and len(group.complete) > 1:
        ends.append((100 * base.value, "debate of the base", STYLE["vote@M"][0]))
    bottom, top = axes.get_ylim()
    height = axes.get_window_extent().height / axes.figure.dpi
    gap = (top - bottom) * 0.17 / height  # 0.17 inches: one line of text
    ends.sort()
    heights = _spread([height for height, _, _ in ends], gap)
    for at, (_, name, color) in zip(heights, ends, strict=True):
        faint = name == "debate of the base"
        axes.annotate(
            name,
            xy=(1.0, at),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            color=color,
            va="center",
            fontsize=8 if faint else 10,
            style="italic" if faint else "normal",
            annotation_clip=False,
        )


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move sorted heights apart to at least ``gap``, as little as that takes.

    Neighbours that are too close merge into a block around their common
    centre (pool adjacent violators).
    """
    blocks: list[tuple[float, int]] = []  # centre, number of labels
    for height in heights:
        centre, count = height, 1
        while blocks and centre - blocks[-1][0] < gap * (count + blocks[-1][1]) / 2:
            other, members = blocks.pop()
            centre, count = (centre * count + other * members) / (count + members), count + members
        blocks.append((centre, count))
    return [centre + gap * (i - (count - 1) / 2) for centre, count in blocks for i in range(count)]


def _before_and_after(figure: Figure, groups: Sequence[Group]) -> None:
    """One line per recipe: the debate of the base, and of the last iteration."""
    shown = [group for group in groups if group.complete]
    figure.set_size_inches(8.0, 1.6 + 0.24 * max(len(shown), 1))
    axes = figure.subplots()
    last_points = [(group, group.point(group.complete[-1])) for group in shown]
    last_points.sort(key=lambda item: item[1].value if item[1] else 0.0)
    color = STYLE["vote@M"][0]
    for row, (group, last) in enumerate(last_points):
        base = group.point(0)
        if base and last:
            axes.plot([100 * base.value, 100 * last.value], [row, row], color="#d0d0d0", linewidth=1.5, zorder=1)
        if base:
            _dot(axes, base, row, FAINT, "white")
        if last and group.complete[-1] > 0:
            _dot(axes, last, row, color, color)
    axes.set_yticks(range(len(last_points)), [group.label for group, _ in last_points], fontsize=8)
    axes.set_ylim(-0.7, len(last_points) - 0.3)
    axes.set_xlabel("accuracy of the debate (%)")
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    frame(figure, groups, "open: the base, filled: after the last iteration; " + _caption(groups, ""))


def _dot(axes: Axes, point: Point, row: int, color: str, fill: str) -> None:
    value, se = 100 * point.value, 100 * point.se
    axes.errorbar(
        value, row, xerr=se, color=color, marker="o", markersize=5, mfc=fill, elinewidth=1.2, capsize=2, zorder=3
    )
