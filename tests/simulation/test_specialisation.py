"""The specialisation model does what its docstring says, and its figures are right."""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hpcmaf.cli.simulate import command
from hpcmaf.simulation.drawing import course_rows, save_outcome
from hpcmaf.simulation.specialisation import Setting, alone, learn, simulate


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


def test_learning_moves_towards_the_data_and_stays_without() -> None:
    skills = np.array([[0.5, 0.5], [0.2, 0.8]])
    moved = learn(skills, np.array([[3, 1], [0, 0]]), 0.5)
    np.testing.assert_allclose(moved, [[0.625, 0.375], [0.2, 0.8]])


@pytest.mark.parametrize(("agents", "subtasks", "rate"), [(3, 3, 0.5), (4, 6, 0.3)])
def test_differences_grow_and_what_is_common_shrinks(agents: int, subtasks: int, rate: float) -> None:
    """The factors around the common start that the docstring names, of the expected step."""
    start = np.full((agents, subtasks), 1 / subtasks)
    push = np.zeros(subtasks)
    push[:2] = 1e-6, -1e-6
    apart, together = start.copy(), start + push
    apart[0] += push
    apart[1] -= push
    for skills, factor in ((apart, 1 + rate / (subtasks - 1)), (together, 1 - rate * (agents - 1) / (subtasks - 1))):
        moved = learn(skills, alone(skills), rate)
        np.testing.assert_allclose(moved - start, factor * (skills - start), atol=1e-10)


def test_agents_go_to_vertices_of_their_own_and_the_pooled_model_stays() -> None:
    outcome = simulate(Setting(runs=40))
    apart, pooled = outcome.apart, outcome.pooled
    rising = apart.variation.mean(axis=1)
    assert rising[0] == 0 and (np.diff(rising[:25]) > 0).all() and rising[-1] > 0.99
    assert apart.distinct[-1].all() and apart.strongest[-1].min() > 0.99 and apart.covered[-1].min() > 0.99
    assert not pooled.variation.any(), "copies of one model"
    assert (np.abs(pooled.strongest - 1 / 3) < 0.1).all()
    assert abs(pooled.covered[-1].mean() - pooled.covered[0, 0]) < 0.01
    assert sorted(apart.path[-1].argmax(axis=1)) == [0, 1, 2]
    for course in (apart, pooled):
        np.testing.assert_allclose(course.path.sum(axis=2), 1)


@pytest.mark.parametrize("size", [(2, 5), (5, 3)])
def test_other_numbers_of_agents_and_subtasks(size: tuple[int, int], tmp_path: Path) -> None:
    outcome = simulate(Setting(*size, iterations=60, runs=10))
    assert outcome.apart.distinct[-1].all()
    assert outcome.apart.path.shape == (61, *size)
    # No more than this many of five agents can be apart over three subtasks.
    most = 1.0 if size == (2, 5) else 0.8
    assert most - 0.05 < outcome.apart.variation[-1].mean() <= most + 1e-9
    save_outcome(outcome, tmp_path / "plot")
    assert (tmp_path / "plot.png").stat().st_size > 10_000 and b"pooled" in (tmp_path / "plot.svg").read_bytes()


def test_the_command(tmp_path: Path) -> None:
    words = ["--iters", "30", "--runs", "5", "--out", str(tmp_path / "a b")]
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    assert result.exit_code == 0
    outcome = simulate(Setting(iterations=30, runs=5))
    rows = list(csv.DictReader((tmp_path / "a b" / "specialisation.csv").open()))
    assert len(rows) == len(course_rows(outcome)) == 62
    assert float(rows[30]["variation"]) == pytest.approx(outcome.apart.variation[-1].mean(), rel=1e-5)
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines[3:14]] == [str(t) for t in range(0, 31, 3)]
    assert lines[13].split()[1] == f"{outcome.apart.variation[-1].mean():.3f}"
    again = CliRunner().invoke(command, words[:4]).output
    assert again.splitlines()[:14] == lines[:14], "the same seed, the same figures"
