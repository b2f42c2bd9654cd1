"""What is asked of Slurm: windows that lose nothing, limits that hold, names that are alone."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.config.profile import Profile, load_profile
from hpcmaf.errors import ConfigError
from hpcmaf.launch.slurm.script import (
    Window,
    check_path,
    parameters,
    run_tag,
    stage_windows,
    windows,
)
from hpcmaf.run.plan import Stage

ELEMENTS = st.integers(0, 200).map(lambda count: [(f"{number:05d}",) for number in range(count)])
# Machines that test are busy; how long an example takes says nothing.
patient = settings(deadline=None)
LIMITS = st.none() | st.integers(1, 60)


def flat(found: Sequence[Window]) -> list[tuple[str, ...]]:
    return [element for window in found for element in window.elements]


def most_at_once(found: Sequence[Window], order: random.Random) -> int:
    """Most elements that can run together when the windows that may run end in a random order."""
    waiting, running, most = set(range(len(found))), set(), 0
    while waiting or running:
        ready = {k for k in waiting if found[k].behind is None or found[k].behind not in waiting | running}
        running |= ready
        waiting -= ready
        assert running, "windows wait for each other in a circle"
        most = max(most, sum(min(len(found[k].elements), found[k].at_once or len(found[k].elements)) for k in running))
        running.discard(order.choice(sorted(running)))
    return most


@patient
@given(ELEMENTS, st.integers(1, 90), LIMITS, st.randoms(use_true_random=False))
def test_windows_hold_everything_once_within_both_limits(
    given_elements: list[tuple[str, ...]], size: int, at_once: int | None, order: random.Random
) -> None:
    found = windows(given_elements, max_array_size=size, at_once=at_once)
    assert flat(found) == given_elements
    lengths = [len(window.elements) for window in found]
    assert all(1 <= length <= size for length in lengths)
    assert not lengths or max(lengths) - min(lengths) <= 1
    assert len(found) == -(-len(given_elements) // size)
    if at_once is None:
        assert all(window.at_once is None and window.behind is None for window in found)
        return
    together = [window.at_once or 0 for window in found if window.behind is None]
    assert not found or sum(together) == at_once
    assert all((window.at_once or 0) >= 1 for window in found)
    assert most_at_once(found, order) <= at_once


def profile(*site: str) -> Profile:
    return load_profile("h100", ["slurm.max_array_size=1001", *site])


AGENTS = tuple(f"{kind}-{number}" for kind in ("generator", "critic") for number in range(3))


@pytest.mark.parametrize(("size", "shares"), [(1, [1] * 6), (2, [2, 2, 2]), (4, [4, 2]), (9, [6])])
def test_several_agents_of_one_job(size: int, shares: list[int]) -> None:
    stage = Stage(1, "finetune", AGENTS, ())
    site = profile(f"slurm.agents_per_job={size}")
    found = stage_windows(stage, AGENTS, site, 1001)
    assert [len(element) for element in flat(found)] == shares
    assert [task for window in found for task in window.elements[0]] == list(AGENTS)


def test_debates_are_arrays_and_nothing_else_is() -> None:
    tasks = tuple(f"{number:05d}" for number in range(5))
    for kind, jobs in (("debate", 1), ("eval", 1), ("finetune", 5), ("merge", 5), ("score", 5)):
        assert len(stage_windows(Stage(1, kind, tasks, ()), tasks, profile(), 1001)) == jobs


@patient
@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_a_tag_is_fit_for_a_job_name_whatever_the_folder_is_called(name: str) -> None:
    tag = run_tag(Path("/runs") / name, "nonce")
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,24}-[0-9a-f]{8}", tag)


def test_runs_do_not_share_tags() -> None:
    here = run_tag(Path("/a/run"), "1")
    assert here == run_tag(Path("/a/../a/run"), "1")
    assert len({here, run_tag(Path("/b/run"), "1"), run_tag(Path("/a/run"), "2"), run_tag(Path("/a/ru n"), "1")}) == 4


@pytest.mark.parametrize("name", ["50%", "a\\b", "two\nlines", "tab\t"])
def test_folders_that_slurm_cannot_write_to(name: str) -> None:
    with pytest.raises(ConfigError, match="choose another --run") as caught:
        check_path(Path("/runs") / name)
    assert "\n" not in str(caught.value)


def test_what_a_job_asks_for() -> None:
    site = profile("slurm.exclude=[n9, n1]")
    values = parameters(site, "generation", name="x", exclude=["n4", "n1"], after=["7", "9"])
    assert (values["exclude"], values["dependency"], values["signal_delay_s"]) == ("n1,n4,n9", "afterany:7:9", 180)
    # Short jobs get their signal in their second half.
    assert parameters(profile("slurm.merge.minutes=2"), "merge", name="x")["signal_delay_s"] == 60
    # No memory is all of it, as Slurm's --mem=0 has it.
    for memory, asked in (("0", "0"), ("0.0001", "1M"), ("2", "2048M")):
        assert parameters(profile(f"slurm.merge.memory_gb={memory}"), "merge", name="n")["mem"] == asked
    with pytest.raises(ConfigError):
        profile("slurm.merge.memory_gb=-1")
