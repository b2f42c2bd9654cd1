"""The specialisation model (paper, appendix): skills of agents that are trained apart, and of one that is not.

    python results/simulate/simulate.py [--agents 3] [--subtasks 3] [--out results/simulate]

An agent's skill is a point p_n of the simplex over K subtasks. Problems come
from all subtasks alike, and agent n is right about one of subtask k with
probability p_n[k]. After the debate an agent learns from what it *alone*
was right about: with c_n[k] such problems its skill moves by

    p_n <- (1 - rate) p_n + rate c_n / sum(c_n).

All agents are copies of one base, p_n = 1/K, so only the luck of the draw
tells them apart. Where others are good an agent is seldom right alone:
around the common start, differences between agents grow by the factor
1 + rate / (K - 1) per iteration, and what all have in common shrinks by
1 - rate (N - 1) / (K - 1). Agents go to different vertices.

The control is one model that plays all N agents and learns from all that
its copies were right about alone. It has only the common part: whatever it
happens to be good at is found by several copies at once, and it stays where
it began.
"""

from __future__ import annotations

import argparse
import csv
from math import sqrt
from pathlib import Path

import matplotlib
import numpy as np

from hpcmaf.seeding import derive_seed

MEASURES = ("variation", "strongest", "covered", "distinct")
# Of Okabe and Ito's colours; agents repeat them beyond seven.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#333333")
LOOKS = {"apart": ("trained apart", COLOURS[0], "-"), "pooled": ("one pooled model", COLOURS[-1], "--")}
# Corners of the simplex over three subtasks.
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, sqrt(3) / 2]])


def alone(skills: np.ndarray) -> np.ndarray:
    """Probability that a problem is of subtask k and agent n alone is right about it.

    Parameters
    ----------
    skills
        ``[..., N, K]``.

    Returns
    -------
    array
        ``[..., N, K]``; with "nobody or several" the events are all there
        are, and exclude each other.
    """
    wrong = 1 - skills
    others = np.stack([np.delete(wrong, n, axis=-2).prod(axis=-2) for n in range(skills.shape[-2])], axis=-2)
    return skills * others / skills.shape[-1]


def learn(skills: np.ndarray, data: np.ndarray, rate: float) -> np.ndarray:
    """Skills moved towards the subtasks of their data; without data they stay."""
    total = data.sum(axis=-1, keepdims=True)
    target = np.divide(data, total, out=np.array(skills, float), where=total > 0)
    return (1 - rate) * skills + rate * target


def simulate(
    agents: int, subtasks: int, iterations: int, problems: int, rate: float, runs: int, seed: int, *, pooled: bool
) -> dict[str, np.ndarray]:
    """Skills of a society over iterations.

    Returns
    -------
    dict
        ``[L + 1, runs]`` of each measure: ``variation``, the mean total
        variation distance between two agents' skills; ``strongest``, the mean
        over agents of their largest skill; ``covered``, the probability that
        some agent is right; ``distinct``, whether agents' strongest subtasks
        are as different as N and K allow. And ``path``, the skills in the
        first run, ``[L + 1, N, K]``.
    """
    draw = np.random.default_rng(derive_seed(seed, "specialisation", pooled))
    skills = np.full((runs, agents, subtasks), 1 / subtasks)
    seen, path = [measure(skills)], [skills[0]]
    for _ in range(iterations):
        chances = alone(skills).reshape(runs, -1)
        nobody = np.clip(1 - chances.sum(axis=1, keepdims=True), 0, 1)
        counts = draw.multinomial(problems, np.concatenate([chances, nobody], axis=1))[:, :-1]
        data = counts.reshape(skills.shape)
        if pooled:
            data = np.broadcast_to(data.sum(axis=1, keepdims=True), skills.shape)
        skills = learn(skills, data, rate)
        seen.append(measure(skills))
        path.append(skills[0])
    columns = zip(MEASURES, zip(*seen, strict=True), strict=True)
    return {name: np.stack(column) for name, column in columns} | {"path": np.stack(path)}


def measure(skills: np.ndarray) -> tuple[np.ndarray, ...]:
    """The measures of ``skills[runs, N, K]``; each ``[runs]``."""
    agents, subtasks = skills.shape[1:]
    first, second = np.triu_indices(agents, k=1)
    variation = np.abs(skills[:, first] - skills[:, second]).sum(axis=2).mean(axis=1) / 2
    covered = 1 - (1 - skills).prod(axis=1).mean(axis=1)
    kinds = np.array([len(np.unique(row)) for row in skills.argmax(axis=2)])
    return variation, skills.max(axis=2).mean(axis=1), covered, kinds == min(agents, subtasks)


def rows(courses: dict[str, dict[str, np.ndarray]]) -> list[dict[str, str]]:
    """Means over the runs, iteration by iteration."""
    found = []
    for training, course in courses.items():
        low, high = np.quantile(course["variation"], [0.1, 0.9], axis=1)
        for t in range(len(low)):
            mean = {name: course[name][t].mean() for name in MEASURES}
            values = {"variation": mean.pop("variation"), "variation_p10": low[t], "variation_p90": high[t]} | mean
            shown = {name: f"{value:.6g}" for name, value in values.items()}
            found.append({"training": training, "iteration": str(t)} | shown)
    return found


def draw(courses: dict[str, dict[str, np.ndarray]], stem: Path, caption: str) -> None:
    """Variation, coverage and where agents go, into ``stem``.png."""
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure((12.5, 4.4), layout="constrained")
        variation, covered, where = figure.subplots(1, 3)
        for axes, name, title in (
            (variation, "variation", "mean pairwise total variation"),
            (covered, "covered", "some agent is right (probability)"),
        ):
            for training, course in courses.items():
                label, colour, dashes = LOOKS[training]
                times = np.arange(len(course[name]))
                low, high = np.quantile(course[name], [0.1, 0.9], axis=1)
                axes.fill_between(times, low, high, color=colour, alpha=0.15, linewidth=0)
                axes.plot(times, course[name].mean(axis=1), color=colour, linestyle=dashes, linewidth=1.8, label=label)
            axes.set(xlabel="iteration (0: copies of one base)", ylim=(-0.03, 1.03))
            axes.set_title(title, fontsize=10, loc="left")
            axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        variation.legend(frameon=False, loc="center right")
        (triangle if courses["apart"]["path"].shape[2] == 3 else bars)(where, courses)
        figure.suptitle("Agents trained apart specialise", fontsize=12, x=0.02, ha="left", weight="bold")
        figure.supxlabel(caption, fontsize=8, color="#666666", x=0.02, ha="left")
        figure.savefig(stem.with_suffix(".png"), dpi=150, metadata={"Software": None})


def triangle(axes: matplotlib.axes.Axes, courses: dict[str, dict[str, np.ndarray]]) -> None:
    """Paths over the simplex; each corner is a subtask."""
    axes.set_title("skills in the first run: paths over the subtasks", fontsize=10, loc="left")
    axes.fill(*CORNERS.T, facecolor="#f7f7f7", edgecolor="#8a8a8a", linewidth=0.9, zorder=0)
    offsets = ((-0.02, -0.07, "left"), (1.02, -0.07, "right"), (0.5, sqrt(3) / 2 + 0.04, "center"))
    for k, (x, y, side) in enumerate(offsets):
        axes.text(x, y, f"subtask {k}", ha=side, color="#666666", fontsize=9)
    path = courses["apart"]["path"]
    for n in range(path.shape[1]):
        points = path[:, n] @ CORNERS
        axes.plot(*points.T, color=COLOURS[n % len(COLOURS)], marker=".", markersize=4, linewidth=1.2)
        axes.plot(*points[-1], color=COLOURS[n % len(COLOURS)], marker="o", markersize=9, clip_on=False)
    points = courses["pooled"]["path"][:, 0] @ CORNERS
    axes.plot(*points.T, color=COLOURS[-1], linewidth=1.0)
    axes.plot(*points[-1], color=COLOURS[-1], marker="s", markersize=7)
    axes.annotate("pooled", CORNERS.mean(axis=0), xytext=(12, -18), textcoords="offset points", fontsize=9)
    axes.set(xlim=(-0.08, 1.08), ylim=(-0.12, 1.0), aspect="equal")
    axes.axis("off")


def bars(axes: matplotlib.axes.Axes, courses: dict[str, dict[str, np.ndarray]]) -> None:
    """Skills at the end, an agent to a row."""
    skills = np.concatenate([courses["apart"]["path"][-1], courses["pooled"]["path"][-1][:1]])
    names = [*(f"agent {n}" for n in range(len(skills) - 1)), "pooled"]
    axes.imshow(skills, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("subtask")
    axes.set_title("skills at the end of the first run", fontsize=10, loc="left")


def main(arguments: list[str] | None = None) -> None:
    """Run the experiment with its control, and write the plot and every iteration's means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("agents", 3), ("subtasks", 3), ("iterations", 40), ("problems", 500), ("runs", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=0.5, help="how far training moves a skill towards its data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    setting = vars(parser.parse_args(arguments))
    out = setting.pop("out")
    out.mkdir(parents=True, exist_ok=True)
    courses = {name: simulate(**setting, pooled=name == "pooled") for name in LOOKS}
    found = rows(courses)
    with (out / "specialisation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    caption = (
        "{agents} agents, {subtasks} subtasks, {problems:,} problems per iteration, rate {rate:g}; lines: mean of "
        "{runs:,} runs, bands: the middle 80 percent of them"
    )
    draw(courses, out / "specialisation", caption.format(**setting))


if __name__ == "__main__":
    main()
