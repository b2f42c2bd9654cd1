"""One line per recipe: methods side by side, diversity, rounds, cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpcmaf.evaluation import MEASURES
from hpcmaf.report.axes import MOST_NAMED, Style, draw_line, finish, grid_of, room_for, styles_of
from hpcmaf.report.behaviour import DIVERSITY
from hpcmaf.report.groups import Group, Point
from hpcmaf.report.plots import FAINT, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Drawn:
    """One plot that was made: its file's stem and what it shows."""

    stem: str
    about: str


def save_lines(groups: Sequence[Group], out: Path) -> list[Drawn]:
    """Draw every plot that there are figures for into ``out``."""
    shown = [group for group in groups if group.complete]
    if not shown:
        return []
    plots: list[tuple[str, str, Callable[[Figure], None]]] = []
    if len(shown) > 1:
        plots.append(("methods", "Accuracy of each method over iterations", lambda f: _methods(f, shown)))
    if any(group.over(t, _disagreement) for group in shown for t in group.complete):
        plots.append(("diversity", "Diversity over iterations", lambda f: _diversity(f, shown)))
        plots.append(("tradeoff", "Accuracy against diversity", lambda f: _tradeoff(f, shown)))
    if any(len(i.metrics["rounds"]) > 1 for group in shown for r in group.runs for i in r.evaluated if i.metrics):
        plots.append(("rounds", "Accuracy over rounds", lambda f: _rounds(f, shown)))
    if any(_ks(group) for group in shown):
        plots.append(("answers", "pass@k and majority@k", lambda f: _answers(f, shown)))
    if any(_spent(group) for group in shown):
        plots.append(("cost", "Accuracy against cost", lambda f: _cost(f, shown)))
    for stem, _, draw in plots:
        save(draw, out / stem)
    return [Drawn(stem, about) for stem, about, _ in plots]


def _disagreement(iteration):
    return iteration.diverse("disagreement")


def _over_iterations(
    figure: Figure, groups: Sequence[Group], rows: Sequence[tuple[str, Callable[[Group, int], Point | None], float]]
) -> None:
    """A row of axes per figure: name, how to read it, scale."""
    from matplotlib.ticker import MaxNLocator

    styles = styles_of(groups)
    for row, place, axes in grid_of(figure, groups, len(rows)):
        title, read, scale = rows[row]
        here = [group for group in groups if group.place == place]
        for at, group in enumerate(here):
            found = [(t, point) for t in group.complete if (point := read(group, t))]
            # Side by side, so that error bars do not hide one another.
            shift = 0.012 * (at - (len(here) - 1) / 2) * (len(here) <= MOST_NAMED)
            if len(found) == 1 and found[0][0] == 0:
                axes.axhline(scale * found[0][1].value, color=styles[group.line].colour, linewidth=0.7, alpha=0.5)
            if found:
                draw_line(axes, styles[group.line], [t + shift for t, _ in found], [p for _, p in found], scale)
        axes.set_ylabel(title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("iteration (0: untouched base)")


BARS = "bars: standard error over problems; bands: lowest to highest run"


def _methods(figure: Figure, groups: Sequence[Group]) -> None:
    _over_iterations(figure, groups, [("accuracy (%)", lambda group, t: group.point(t), 100.0)])
    finish(figure, groups, BARS)


def _diversity(figure: Figure, groups: Sequence[Group]) -> None:
    rows = [
        (title, lambda group, t, name=name: group.over(t, lambda i: i.diverse(name)), 1.0)
        for name, title in DIVERSITY.items()
        if any(group.over(t, lambda i, name=name: i.diverse(name)) for group in groups for t in group.complete)
    ]
    _over_iterations(figure, groups, rows)
    finish(figure, groups, BARS)


def _tradeoff(figure: Figure, groups: Sequence[Group]) -> None:
    styles = styles_of(groups)
    for _, place, axes in grid_of(figure, groups, 1):
        for group in groups:
            if group.place != place:
                continue
            both = [
                (x, y)
                for t in group.complete
                if (x := group.over(t, _disagreement)) and (y := group.point(t))
            ]
            if not both:
                continue
            style = styles[group.line]
            xs, ys = [x.value for x, _ in both], [100 * y.value for _, y in both]
            with room_for(axes, style):
                axes.plot(
                    xs, ys, color=style.colour, marker=style.marker or None, linestyle=style.dashes, label=style.name,
                    markersize=4.5, linewidth=1.4 if style.name else 0.8, zorder=3 if style.name else 2,
                )  # fmt: skip
            if style.name is None:
                continue
            axes.errorbar(
                xs, ys, xerr=[x.se for x, _ in both], yerr=[100 * y.se for _, y in both],
                fmt="none", ecolor=style.colour, elinewidth=0.7, alpha=0.5,
            )  # fmt: skip
            if len(both) > 1:
                axes.plot(xs[:1], ys[:1], color=style.colour, marker="o", mfc="white", markersize=7, zorder=2.5)
        axes.set_xlabel("diversity: 1 − consensus")
        axes.set_ylabel("accuracy (%)")
    finish(figure, groups, "ringed: first iteration; lines go from one iteration to the next; bars: standard errors")


def _rounds(figure: Figure, groups: Sequence[Group]) -> None:
    """Vote and mean agent over rounds: the last iteration's, and faintly the base's."""
    from matplotlib.ticker import MaxNLocator

    styles = styles_of(groups)
    for row, place, axes in grid_of(figure, groups, 2):
        key, title = (("vote", "the round's vote (%)"), ("mean", "mean agent (%)"))[row]
        for group in groups:
            if group.place != place:
                continue
            for t in sorted({group.complete[0], group.complete[-1]}):
                found = [(m, p) for m in range(1, 65) if (p := group.over(t, _round(m, key)))]
                style = styles[group.line]
                if t != group.complete[-1]:
                    style = Style(FAINT, "", ":", None, compared=style.name is not None)
                if found:
                    draw_line(axes, style, [m for m, _ in found], [p for _, p in found])
        axes.set_xlabel("round")
        axes.set_ylabel(title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(figure, groups, f"after the last iteration; dotted: the first; {BARS}")


def _round(m: int, key: str):
    def read(iteration):
        rounds = iteration.metrics["rounds"] if iteration.metrics else []
        return rounds[m - 1][key] if m <= len(rounds) else None

    return read


def _ks(group: Group) -> list[int]:
    """The k that all runs have a first-round curve for after the last iteration; none of a single agent."""
    last = [i for run in group.runs for i in run.evaluated if i.number == group.complete[-1] and i.metrics]
    found = [i.metrics["curves"][0]["k"] if i.metrics.get("curves") else [] for i in last if i.metrics]
    return found[0] if found and len(found[0]) > 1 and all(ks == found[0] for ks in found) else []


def _answers(figure: Figure, groups: Sequence[Group]) -> None:
    """What k answers of the first round are good for."""
    from matplotlib.ticker import MaxNLocator

    styles = styles_of(groups)
    for row, place, axes in grid_of(figure, groups, 2):
        kind = ("pass", "majority")[row]
        for group in groups:
            ks = _ks(group) if group.place == place else []
            found = [
                group.over(group.complete[-1], lambda i, at=at, kind=kind: i.metrics["curves"][0][kind][at])
                for at in range(len(ks))
            ]
            if ks:
                draw_line(axes, styles[group.line], ks, [point for point in found if point])
        axes.set_xlabel("k of the agents' first answers")
        axes.set_ylabel(f"{kind}@k (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(figure, groups, f"after the last iteration; {BARS}")


def _spent(group: Group) -> dict[int, dict[str, float]]:
    """Mean cost of getting to each iteration, over the runs that know theirs."""
    found = {}
    for t in group.complete:
        costs = [cost for run in group.runs if (cost := run.spent(t)) is not None]
        if costs:
            found[t] = {name: sum(cost[name] for cost in costs) / len(costs) for name in costs[0]}
    return found


def _cost(figure: Figure, groups: Sequence[Group]) -> None:
    """Accuracy against what the models cost, and against what an answer costs."""
    from matplotlib.ticker import EngFormatter

    styles = styles_of(groups)
    spent = {id(group): _spent(group) for group in groups}
    on_gpu = any(cost["gpu_seconds"] for one in spent.values() for cost in one.values())
    made = ("gpu_seconds", "GPU-seconds so far") if on_gpu else ("wall_seconds", "seconds of jobs so far (no GPU)")
    for row, place, axes in grid_of(figure, groups, 3):
        for group in groups:
            costs = spent[id(group)]
            if group.place != place or not costs:
                continue
            last = max(costs)
            if row < 2:
                measures, times = [None] * len(costs), list(costs)
                xs = [cost["generated"] + cost["trained"] if row == 0 else cost[made[0]] for cost in costs.values()]
            else:
                measures, times = list(MEASURES), [last] * 3
                xs = [costs[last][measure] for measure in measures]
            points = [group.point(t, measure) for t, measure in zip(times, measures, strict=True)]
            found = [(x, point) for x, point in zip(xs, points, strict=True) if point]
            if found:
                draw_line(axes, styles[group.line], [x for x, _ in found], [p for _, p in found])
        axes.set_xlabel(
            ("tokens debated and trained on so far", made[1], "tokens per answer: one, majority, debate")[row]
        )
        axes.set_ylabel("accuracy (%)")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    finish(figure, groups, f"evaluation is not counted as cost; {BARS}")
