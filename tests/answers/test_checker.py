"""Workers: what only Math-Verify can tell, deadlines, and no process left behind.

Each worker takes a second or two to start; tests share one where they can.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hpcmaf.answers import checker, equivalent, warm_up
from hpcmaf.answers.checker import Checker, Deadline, DeadlineExceeded
from hpcmaf.errors import PlatformError

# Texts that keep a symbolic grader busy for ever; the exact levels decide numbers like these themselves,
# so the checker is asked directly, or beside something they cannot read.
ENDLESS = ["99999999!", "9^{9^{9^{9}}}"]
SLACK_S = 2.0


@pytest.fixture(scope="module", autouse=True)
def _one_worker():
    warm_up()
    yield
    checker.shared.close()


def test_what_exact_values_cannot_decide() -> None:
    assert equivalent(r"\cot x", r"\frac{\cos x}{\sin x}")
    assert equivalent(r"\frac{\cos x}{\sin x}", r"\cot x")
    assert equivalent(r"\frac{1}{x+1}", r"\frac{2}{2x+2}")
    assert equivalent(r"\log_2 8", "3")
    assert equivalent(r"\tan 15^\circ", r"2-\sqrt{3}")
    assert not equivalent(r"\tan 15^\circ", r"\tan 15")
    assert not equivalent(r"\sin x", r"\cos x")
    assert not equivalent("{", "}")


def test_one_direction_that_finds_equality_is_enough() -> None:
    # Math-Verify takes an equation for its right side only where it is not the gold answer, or the reverse.
    forth = checker.shared.check("x=5", "5", Deadline(5))
    back = checker.shared.check("5", "x=5", Deadline(5))
    assert forth
    assert back


@pytest.mark.parametrize("endless", [pytest.param(ENDLESS[0], marks=pytest.mark.slow), ENDLESS[1]])
def test_the_deadline_holds_and_the_next_check_works(endless: str) -> None:
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        checker.shared.check(endless, r"\cot x", Deadline(0.5))
    assert time.monotonic() - start < 0.5 + SLACK_S
    assert checker.shared.check("x+1", "1+x", Deadline(5))


def test_out_of_time_is_different_until_more_time_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def slow(self: Checker, a: str, b: str, deadline: Deadline) -> bool:
        asked.append(deadline.left_s)
        if deadline.left_s < 3:
            raise DeadlineExceeded
        return True

    monkeypatch.setattr(Checker, "check", slow)
    a, b = r"\operatorname{slow}(1)", r"\operatorname{slow}(2)"
    assert not equivalent(a, b, deadline_s=2)
    assert not equivalent(b, a, deadline_s=1)
    assert asked == [2]  # the verdict of the longer deadline stands for the shorter one
    assert equivalent(a, b, deadline_s=4)
    assert equivalent(a, b, deadline_s=9)
    assert asked == [2, 4]


def test_all_parts_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    class Counted(checker._Worker):
        def __init__(self) -> None:
            super().__init__()
            started.append(self.pid)

    monkeypatch.setattr(checker, "_Worker", Counted)
    parts = ",".join(rf"\tan({ENDLESS[1]})+{index}" for index in range(6))
    others = ",".join(rf"\cot({index})" for index in range(6))
    start = time.monotonic()
    assert not equivalent(f"({parts})", f"({others})", deadline_s=0.5)
    assert time.monotonic() - start >= 0.5  # it was a worker that could not tell
    assert not equivalent(f"\\{{{parts}\\}}", f"\\{{{others}\\}}", deadline_s=0.5)
    # Of 37 comparisons of elements two reached a worker; the second had to be started, the first being killed.
    assert len(started) <= 2


def test_from_many_threads_and_under_asyncio() -> None:
    pairs = [(rf"\sin({index}x)", rf"\sin({index}x)+0") for index in range(12)]
    expected = [True] * len(pairs)

    async def gather() -> list[bool]:
        return await asyncio.gather(*(asyncio.to_thread(equivalent, b, a) for a, b in pairs))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda pair: equivalent(*pair), pairs)) == expected
    assert asyncio.run(gather()) == expected
    assert len(checker.shared.pids()) <= checker.MAX_WORKERS


@pytest.mark.slow
def test_a_worker_killed_before_or_during_a_check_is_replaced() -> None:
    own = Checker(workers=1)
    try:
        own.warm_up()
        (first,) = own.pids()
        os.kill(first, signal.SIGKILL)
        assert own.check("x+1", "1+x", Deadline(5))
        (second,) = own.pids()
        assert second != first
        threading.Timer(0.3, os.kill, (second, signal.SIGKILL)).start()
        with pytest.raises(DeadlineExceeded):  # in the worker that took over
            own.check(ENDLESS[1], r"\cot x", Deadline(1.5))
        assert own.pids() == []
    finally:
        own.close()


def test_a_worker_that_cannot_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(PlatformError, match="math_verify"):
        Checker().check("x", "y", Deadline(1))


def test_a_forked_child_does_not_touch_its_parents_workers() -> None:
    before = checker.shared.pids()
    child = os.fork()
    if child == 0:
        os._exit(0 if checker.shared.pids() == [] and equivalent("1/2", "0.5") else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert before
    assert checker.shared.pids() == before
    assert equivalent(r"\tan(2x)", r"\tan(x+x)")


_PARENT = r"""
import os, sys, threading, time
from hpcmaf.answers import checker, warm_up
warm_up()
print(*checker.shared.pids(), flush=True)
if sys.argv[1] == "busy":
    checker.shared.check("9^{9^{9^{9}}}", "\\cot x", checker.Deadline(2.0))
time.sleep(60)
"""


@pytest.mark.parametrize("state", ["idle", pytest.param("busy", marks=pytest.mark.slow)])
def test_no_worker_outlives_a_killed_parent(state: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, state], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    (worker,) = map(int, parent.stdout.readline().split())
    assert _runs(worker)
    if state == "busy":
        time.sleep(0.5)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 20
    while _runs(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _runs(worker)


def test_importing_answers_loads_nothing_heavy() -> None:
    probe = (
        "import sys, hpcmaf.answers as a; a.equivalent('1/2', '0.5'); a.equivalent('1,2', '2,1');"
        "print([m for m in ('sympy', 'math_verify', 'numpy', 'torch') if m in sys.modules], a.equivalence.checker.shared.pids())"
    )
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[] []"


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
