"""Causes are told apart, and each is worth what its rule says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from hpcmaf.attempts import Attempt
from hpcmaf.launch.slurm.causes import MOST_ATTEMPTS, RULES, Cause, Kind, decide, find_cause
from hpcmaf.launch.slurm.commands import Job
from hpcmaf.launch.slurm.submissions import Verdict

ECC = "RuntimeError: CUDA error: uncorrectable ECC error encountered"


def attempt(cause: tuple[str, str] | None = None, *, expected: bool = False, progress: int = 0) -> Attempt:
    """One that began, and left a cause of this type and message, or none."""
    left: dict[str, Any] | None = None
    if cause is not None:
        left = {"type": cause[0], "message": cause[1], "expected": expected}
    return Attempt(Path("0001"), {"node": "node2", "log": "7_0_log.err", "progress": progress}, left)


def job(state: str, reason: str = "") -> Job:
    return Job("7", 0, "name", state, reason, nodes="node3")


@pytest.mark.parametrize(
    ("left", "seen", "kind"),
    [
        # The task's own word comes first.
        (attempt(("ValueError", "no such thing")), job("COMPLETED"), "error"),
        (attempt(("DataError", "it01/debate: torn"), expected=True), job("FAILED"), "error"),
        (attempt(("StopRequested", "told to stop")), job("CANCELLED"), "stopped"),
        (attempt(("RunBusyError", "another process")), None, "busy"),
        (attempt(("MissingInputError", "needs it01/merge")), None, "inputs"),
        (attempt(("OutOfMemory", "CUDA out of memory")), job("FAILED"), "out of memory"),
        (attempt(("RuntimeError", ECC)), job("FAILED"), "hardware"),
        (attempt(("DistBackendError", "NCCL error: unhandled system error")), None, "hardware"),
        (attempt(("OSError", "[Errno 116] Stale file handle")), None, "hardware"),
        # A message that we wrote ourselves is no sign of broken hardware.
        (attempt(("TrainingError", "NVLink is not what this is about"), expected=True), None, "error"),
        # Killed without a word: what Slurm says of it.
        (attempt(), job("NODE_FAIL"), "node failure"),
        (attempt(), job("BOOT_FAIL"), "node failure"),
        (attempt(), job("PREEMPTED"), "preempted"),
        (attempt(), job("TIMEOUT"), "time limit"),
        (attempt(), job("DEADLINE"), "time limit"),
        (attempt(), job("OUT_OF_MEMORY"), "out of memory"),
        (attempt(), job("CANCELLED"), "cancelled"),
        (attempt(), job("COMPLETED"), "unfinished"),
        (attempt(), job("FAILED"), "killed"),
        (attempt(), None, "killed"),
        # It never began.
        (None, job("FAILED"), "not started"),
        (None, job("LAUNCH_FAILED"), "not started"),
        (None, job("CANCELLED"), "cancelled"),
        (None, job("CANCELLED", "DependencyNeverSatisfied"), "lost"),
        (None, None, "lost"),
    ],
)
def test_causes_are_told_apart(left: Attempt | None, seen: Job | None, kind: Kind) -> None:
    cause = find_cause(left, seen, standing=0)
    assert cause.kind == kind
    assert cause.text and "\n" not in cause.text


def test_a_cause_says_where_to_read_on() -> None:
    cause = find_cause(attempt(), job("TIMEOUT"), standing=0)
    assert (cause.log, cause.node) == ("7_0_log.err", "node2")
    assert find_cause(None, job("FAILED"), 0).node == "node3"


def test_progress_is_what_came_on_top_of_where_the_attempt_began() -> None:
    assert find_cause(attempt(progress=10), job("TIMEOUT"), standing=11).progressed
    assert not find_cause(attempt(progress=10), job("TIMEOUT"), standing=10).progressed


def test_there_is_a_rule_for_every_kind() -> None:
    assert set(RULES) == set(get_args(Kind))


def verdicts(kind: Kind, count: int, *, counted: bool | None = None) -> list[Verdict]:
    counts = RULES[kind].counted if counted is None else counted
    return [Verdict("it01/debate", "00000", f"n{k}", kind, "why", counts) for k in range(count)]


@pytest.mark.parametrize("kind", sorted(RULES))
def test_every_rule_is_kept(kind: Kind) -> None:
    rule = RULES[kind]
    first = decide(Cause(kind, "why", node="node2", progressed=True), [], attempts=3)
    assert first.retry is (rule.retry is not False)
    assert "why" in first.why
    if not first.retry:
        return
    assert first.halve is rule.halve
    assert first.avoid == ("node2" if rule.avoid else "")
    third = decide(Cause(kind, "why", progressed=True), verdicts(kind, 2), attempts=3)
    assert third.retry is not rule.counted
    if rule.counted:
        assert "attempt 3 of 3" in third.why
    last = decide(Cause(kind, "why", progressed=True), verdicts(kind, MOST_ATTEMPTS - 1, counted=False), attempts=100)
    assert not last.retry and f"attempt {MOST_ATTEMPTS} in all" in last.why


def test_free_attempts_use_up_none_of_the_counted_ones() -> None:
    earlier = verdicts("node failure", 5) + verdicts("killed", 1)
    assert decide(Cause("killed", "why"), earlier, attempts=3).retry
    assert not decide(Cause("killed", "why"), [*earlier, *verdicts("killed", 1)], attempts=3).retry


def test_a_time_limit_reached_without_progress_ends_the_chain() -> None:
    decision = decide(Cause("time limit", "Slurm says TIMEOUT", progressed=False), [], attempts=3)
    assert not decision.retry and "no further" in decision.why and "minutes" in decision.why


def test_memory_is_suspected_when_a_task_is_killed_twice() -> None:
    assert not decide(Cause("killed", "why"), [], attempts=3).halve
    assert decide(Cause("killed", "why"), verdicts("killed", 1), attempts=3).halve
