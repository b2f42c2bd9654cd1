"""The specialisation model, drawn."""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcmaf.report.plots import FAINT, save
from hpcmaf.simulation.specialisation import Course, Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of Okabe and Ito's colours, as in the other plots; agents repeat them beyond seven.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#333333")
APART, POOLED = "trained apart", "one pooled model"
_LOOKS = {APART: ("#D55E00", "-"), POOLED: ("#333333", "--")}
# Corners of the simplex over three subtasks.
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, sqrt(3) / 2]])


def save_outcome(outcome: Outcome, stem: Path) -> None:
    """Draw an experiment into ``stem``.png and ``stem``.svg."""
    save(lambda figure: _draw(figure, outcome), stem)


def _draw(figure: Figure, outcome: Outcome) -> None:
    setting = outcome.setting
    figure.set_size_inches(12.5, 4.4)
    variation, covered, where = figure.subplots(1, 3)
    courses = {APART: outcome.apart, POOLED: outcome.pooled}
    for axes, name, title in (
        (variation, "variation", "mean pairwise total variation"),
        (covered, "covered", "some agent is right (probability)"),
    ):
        for label, course in courses.items():
            _line(axes, label, getattr(course, name))
        axes.set(xlabel="iteration (0: copies of one base)", title=title, ylim=(-0.03, 1.03))
        axes.title.set(fontsize=10, ha="left", x=0)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    variation.legend(frameon=False, loc="center right")
    (_triangle if setting.subtasks == 3 else _bars)(where, outcome)
    figure.suptitle("Agents trained apart specialise", fontsize=12, x=0.02, ha="left", weight="bold")
    figure.supxlabel(
        f"{setting.agents} agents, {setting.subtasks} subtasks, {setting.problems:,} problems per iteration, rate "
        f"{setting.rate:g}; lines: mean of {setting.runs:,} runs, bands: the middle 80 percent of them",
        fontsize=8,
        color="#666666",
        x=0.02,
        ha="left",
    )


def _line(axes: Axes, label: str, values: np.ndarray) -> None:
    colour, dashes = _LOOKS[label]
    times = np.arange(len(values))
    low, high = np.quantile(values, [0.1, 0.9], axis=1)
    axes.fill_between(times, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(times, values.mean(axis=1), color=colour, linestyle=dashes, linewidth=1.8, label=label)


def _triangle(axes: Axes, outcome: Outcome) -> None:
    """Paths over the simplex; each corner is a subtask."""
    axes.set_title("skills in the first run: paths over the subtasks", fontsize=10, loc="left")
    axes.fill(*_CORNERS.T, facecolor="#f7f7f7", edgecolor=FAINT, linewidth=0.9, zorder=0)
    offsets = ((-0.02, -0.07, "left"), (1.02, -0.07, "right"), (0.5, sqrt(3) / 2 + 0.04, "center"))
    for k, (x, y, side) in enumerate(offsets):
        axes.text(x, y, f"subtask {k}", ha=side, color="#666666", fontsize=9)
    for n in range(outcome.setting.agents):
        points = outcome.apart.path[:, n] @ _CORNERS
        axes.plot(*points.T, color=COLOURS[n % len(COLOURS)], marker=".", markersize=4, linewidth=1.2)
        axes.plot(*points[-1], color=COLOURS[n % len(COLOURS)], marker="o", markersize=9, clip_on=False)
    axes.plot(*(outcome.pooled.path[:, 0] @ _CORNERS).T, color=_LOOKS[POOLED][0], linewidth=1.0)
    axes.plot(*(outcome.pooled.path[-1, 0] @ _CORNERS), color=_LOOKS[POOLED][0], marker="s", markersize=7)
    axes.annotate("pooled", _CORNERS.mean(axis=0), xytext=(12, -18), textcoords="offset points", fontsize=9)
    axes.set(xlim=(-0.08, 1.08), ylim=(-0.12, 1.0), aspect="equal")
    axes.axis("off")


def _bars(axes: Axes, outcome: Outcome) -> None:
    """Skills at the end, an agent to a row."""
    skills = np.concatenate([outcome.apart.path[-1], outcome.pooled.path[-1][:1]])
    names = [*(f"agent {n}" for n in range(outcome.setting.agents)), "pooled"]
    axes.imshow(skills, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    if skills.size <= 120:
        for (row, column), value in np.ndenumerate(skills):
            ink = "white" if value > 0.6 else "#333333"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("subtask")
    axes.set_title("skills at the end of the first run", fontsize=10, loc="left")


def course_rows(outcome: Outcome) -> list[dict[str, float | int | str]]:
    """Both courses as rows: means over the runs, iteration by iteration."""
    rows: list[dict[str, float | int | str]] = []
    for training, course in (("apart", outcome.apart), ("pooled", outcome.pooled)):
        rows += [{"training": training, "iteration": t} | row for t, row in enumerate(_means(course))]
    return rows


def _means(course: Course) -> list[dict[str, float]]:
    low, high = np.quantile(course.variation, [0.1, 0.9], axis=1)
    return [
        {
            "variation": float(course.variation[t].mean()),
            "variation_p10": float(low[t]),
            "variation_p90": float(high[t]),
            "strongest": float(course.strongest[t].mean()),
            "covered": float(course.covered[t].mean()),
            "distinct": float(course.distinct[t].mean()),
        }
        for t in range(len(course.variation))
    ]
