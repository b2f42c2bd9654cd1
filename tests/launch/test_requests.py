"""What is asked of Slurm: windows that lose nothing, limits that hold, names that are alone."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.config.profile import Profile, load_profile
from hpcmaf.errors import ConfigError
from hpcmaf.launch.slurm.script import Window, check_path, parameters, run_tag, windows
from hpcmaf.run.plan import Stage

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


@cache
def limited(at_once: int | None) -> Profile:
    return load_profile("h100", [] if at_once is None else [f"slurm.generation.at_once={at_once}"])


@patient
@given(st.integers(0, 200), st.integers(1, 90), LIMITS, st.randoms(use_true_random=False))
def test_windows_hold_everything_once_within_both_limits(
    count: int, size: int, at_once: int | None, order: random.Random
) -> None:
    tasks = [f"{number:05d}" for number in range(count)]
    found = windows(Stage(1, "debate", tuple(tasks), ()), tasks, limited(at_once), size)
    assert flat(found) == [(task,) for task in tasks]
    lengths = [len(window.elements) for window in found]
    assert all(1 <= length <= size for length in lengths)
    assert not lengths or max(lengths) - min(lengths) <= 1
    assert len(found) == -(-count // size)
    if at_once is None:
        assert all(window.at_once is None and window.behind is None for window in found)
        return
    together = [window.at_once or 0 for window in found if window.behind is None]
    assert not found or sum(together) == at_once
    assert all((window.at_once or 0) >= 1 for window in found)
    assert most_at_once(found, order) <= at_once


def profile(*site: str) -> Profile:
    return load_profile("h100", ["slurm.max_array_size=1001", *site])


@patient
@given(st.text(st.characters(exclude_characters="/.\0", exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_a_tag_is_fit_for_a_job_name_whatever_the_folder_is_called(name: str) -> None:
    tag = run_tag(Path("/runs") / name, "nonce")
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,24}-[0-9a-f]{8}", tag)
    # No two runs share it.
    others = (("/runs/b", "nonce"), ("/runs", "another"), ("/runs/b/ a", "nonce"))
    assert tag == run_tag(Path("/runs/../runs") / name, "nonce")
    assert tag not in {run_tag(Path(folder) / name, nonce) for folder, nonce in others}


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
