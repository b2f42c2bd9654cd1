"""The specialisation model (paper, appendix): skills of agents that are trained apart, and of one that is not.

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

from dataclasses import dataclass

import numpy as np

from hpcmaf.seeding import derive_seed


@dataclass(frozen=True, slots=True)
class Setting:
    """One experiment.

    Attributes
    ----------
    agents, subtasks
        N and K.
    problems
        Debated in an iteration.
    rate
        How far training moves a skill towards its data, in (0, 1].
    runs
        Repetitions, each with draws of its own.
    """

    agents: int = 3
    subtasks: int = 3
    iterations: int = 40
    problems: int = 500
    rate: float = 0.5
    runs: int = 100
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Course:
    """What became of a society, by iteration (the first axis, L + 1) and run.

    Attributes
    ----------
    variation
        Mean total variation distance between the skills of two agents.
    strongest
        Mean over agents of their largest skill; 1/K for generalists, 1 at a
        vertex.
    covered
        Probability that at least one agent is right.
    distinct
        Whether agents' strongest subtasks are as different as N and K allow.
    path
        Skills in the first run, ``[L + 1, N, K]``.
    """

    variation: np.ndarray
    strongest: np.ndarray
    covered: np.ndarray
    distinct: np.ndarray
    path: np.ndarray


@dataclass(frozen=True, slots=True)
class Outcome:
    """Agents trained apart, and the control: N copies of one model trained on everything."""

    setting: Setting
    apart: Course
    pooled: Course


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


def simulate(setting: Setting) -> Outcome:
    """Run the experiment with its control."""
    return Outcome(setting, _course(setting, pooled=False), _course(setting, pooled=True))


def _course(setting: Setting, *, pooled: bool) -> Course:
    agents, subtasks = setting.agents, setting.subtasks
    draw = np.random.default_rng(derive_seed(setting.seed, "specialisation", pooled))
    skills = np.full((setting.runs, agents, subtasks), 1 / subtasks)
    seen, path = [_figures(skills)], [skills[0]]
    for _ in range(setting.iterations):
        chances = alone(skills).reshape(setting.runs, -1)
        nobody = np.clip(1 - chances.sum(axis=1, keepdims=True), 0, 1)
        counts = draw.multinomial(setting.problems, np.concatenate([chances, nobody], axis=1))[:, :-1]
        data = counts.reshape(skills.shape)
        if pooled:
            data = np.broadcast_to(data.sum(axis=1, keepdims=True), skills.shape)
        skills = learn(skills, data, setting.rate)
        seen.append(_figures(skills))
        path.append(skills[0])
    return Course(*(np.stack(column) for column in zip(*seen, strict=True)), path=np.stack(path))


def _figures(skills: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Variation, strongest, covered and distinct of ``skills[runs, N, K]``; each ``[runs]``."""
    agents, subtasks = skills.shape[1:]
    first, second = np.triu_indices(agents, k=1)
    variation = np.abs(skills[:, first] - skills[:, second]).sum(axis=2).mean(axis=1) / 2
    covered = 1 - (1 - skills).prod(axis=1).mean(axis=1)
    best = skills.argmax(axis=2)
    kinds = np.array([len(np.unique(row)) for row in best])
    return variation, skills.max(axis=2).mean(axis=1), covered, kinds == min(agents, subtasks)
