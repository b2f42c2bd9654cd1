"""The specialisation model does what its docstring says, and the published figures are its own."""

from __future__ import annotations

import runpy
from itertools import product
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[2] / "results" / "simulate"
MODEL = runpy.run_path(str(FOLDER / "simulate.py"))
alone, simulate = MODEL["alone"], MODEL["simulate"]


def run(agents: int = 3, subtasks: int = 3, iterations: int = 40, *, pooled: bool) -> dict[str, np.ndarray]:
    return simulate(agents, subtasks, iterations, problems=500, rate=0.5, runs=20, seed=0, pooled=pooled)


def test_alone_counts_who_is_right_and_nobody_else() -> None:
    """Against every outcome of one problem, listed."""
    skills = np.random.default_rng(1).dirichlet(np.ones(4), size=3)
    wanted = np.zeros((3, 4))
    for k, right in product(range(4), product((0, 1), repeat=3)):
        chance = np.prod([skills[n, k] if right[n] else 1 - skills[n, k] for n in range(3)])
        if sum(right) == 1:
            wanted[right.index(1), k] += chance / 4
    np.testing.assert_allclose(alone(skills), wanted)
    np.testing.assert_allclose(alone(np.stack([skills, skills]))[1], wanted)


def test_agents_go_to_vertices_of_their_own_and_the_pooled_model_stays() -> None:
    apart, pooled = run(pooled=False), run(pooled=True)
    rising = apart["variation"].mean(axis=1)
    assert rising[0] == 0 and (np.diff(rising[:25]) > 0).all() and rising[-1] > 0.99
    assert apart["distinct"][-1].all() and apart["strongest"][-1].min() > 0.99 and apart["covered"][-1].min() > 0.99
    assert not pooled["variation"].any(), "copies of one model"
    assert (np.abs(pooled["strongest"] - 1 / 3) < 0.1).all()
    assert abs(pooled["covered"][-1].mean() - pooled["covered"][0, 0]) < 0.01
    assert sorted(apart["path"][-1].argmax(axis=1)) == [0, 1, 2]


def test_the_published_figures_are_what_the_script_writes(tmp_path: Path) -> None:
    MODEL["main"](["--out", str(tmp_path)])
    assert (tmp_path / "specialisation.csv").read_bytes() == (FOLDER / "specialisation.csv").read_bytes()
    assert (tmp_path / "specialisation.png").stat().st_size > 10_000
