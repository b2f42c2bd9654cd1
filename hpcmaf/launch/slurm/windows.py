"""How a stage's tasks are divided over jobs and job arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpcmaf.config.profile import Profile
from hpcmaf.launch.slurm.submissions import Element
from hpcmaf.run.plan import Stage


@dataclass(frozen=True, slots=True)
class Window:
    """One job array, or one single job.

    Attributes
    ----------
    at_once
        Its share of the stage's limit; ``None`` for no limit.
    behind
        Position of the window that has to end before this one starts.
    """

    elements: tuple[Element, ...]
    at_once: int | None = None
    behind: int | None = None


def elements(stage: Stage, tasks: Sequence[str], profile: Profile) -> list[Element]:
    """Divide a stage's tasks over jobs: an element is what one job does."""
    size = profile.cluster.agents_per_job if stage.spec.fan_out == "agent" else 1
    return [tuple(tasks[first : first + size]) for first in range(0, len(tasks), size)]


def windows(elements: Sequence[Element], *, max_array_size: int, at_once: int | None) -> list[Window]:
    """Cut what does not fit into one job array.

    MaxArraySize is one more than the largest index Slurm takes, and every
    window starts at 0, so a window holds up to MaxArraySize elements. The
    windows differ by one element at most, and share the limit; with fewer
    places than windows, the rest wait for those in front of them.
    """
    if not elements:
        return []
    count = -(-len(elements) // max_array_size)
    places = min(count, at_once or count)
    result = []
    for k in range(count):
        part = tuple(elements[k * len(elements) // count : (k + 1) * len(elements) // count])
        share = None if at_once is None else at_once // places + (k % places < at_once % places)
        result.append(Window(part, share, k - places if k >= places else None))
    return result


def stage_windows(stage: Stage, tasks: Sequence[str], profile: Profile, max_array_size: int) -> list[Window]:
    """Jobs that do these tasks of a stage: arrays of shards, a job per agent."""
    at_once = profile.cluster.resources(stage.spec.resources).at_once
    size = max_array_size if stage.spec.array else 1
    return windows(elements(stage, tasks, profile), max_array_size=size, at_once=at_once)
