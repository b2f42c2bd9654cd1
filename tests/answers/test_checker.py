"""Workers: deadlines that hold, workers that die, and no process left behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from hpcmaf.answers import checker, equivalent
from hpcmaf.answers.checker import Deadline

ENDLESS = "9^{9^{9^{9}}}"


@pytest.fixture(scope="module", autouse=True)
def _workers():
    equivalent("x+1", "1+x")


def test_all_parts_share_one_deadline() -> None:
    parts = ",".join(rf"\tan({ENDLESS})+{index}" for index in range(6))
    others = ",".join(rf"\cot({index})" for index in range(6))
    start = time.monotonic()
    assert not equivalent(rf"\{{{parts}\}}", rf"\{{{others}\}}", deadline_s=0.5)
    assert 0.5 <= time.monotonic() - start < 0.5 + 5


def test_from_many_threads_and_under_asyncio() -> None:
    pairs = [(rf"\sin({index}x)", rf"\sin({index}x)+0") for index in range(12)]

    async def gather() -> list[bool]:
        return await asyncio.gather(*(asyncio.to_thread(equivalent, b, a, deadline_s=60) for a, b in pairs))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda pair: equivalent(*pair, deadline_s=61), pairs))
    assert all(asyncio.run(gather()))


def test_workers_that_are_killed_are_replaced() -> None:
    for child in psutil.Process().children(recursive=True):
        if "hpcmaf.answers.worker" in child.cmdline():
            child.kill()
    assert checker.check("x+1", "1+x", Deadline(60))


def test_a_forked_child_has_workers_of_its_own() -> None:
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if equivalent(r"\tan(2x)", r"\tan(x+x)", deadline_s=60) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert equivalent(r"\tan(3x)", r"\tan(x+2x)", deadline_s=60)


_PARENT = r"""
import sys, time
from hpcmaf.answers import checker, equivalent
equivalent("x+1", "1+x")
print("ready", flush=True)
if sys.argv[1] == "busy":
    checker.check("9^{9^{9^{9}}}", "\\cot x", checker.Deadline(3.0))
time.sleep(60)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_no_worker_outlives_a_killed_parent(state: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, state], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "ready\n"
    time.sleep(0.5)
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert workers
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert psutil.wait_procs(workers, 20)[1] == []


@pytest.mark.parametrize("named", ["missing", "in the folder"])
def test_a_library_that_is_missing_is_named_and_none_is_taken_from_the_folder(named: str, tmp_path: Path) -> None:
    missing = named == "missing"
    module = "math_verify.py" if missing else "sympy.py"
    (tmp_path / module).write_text("raise ImportError('torn')")
    result = subprocess.run(
        [sys.executable, "-P", "-m", "hpcmaf", "grade", "--gold", r"\cot x", "--answer", r"\frac{\cos x}{\sin x}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)} if missing else None,
        capture_output=True,
        text=True,
    )
    if missing:
        assert result.returncode not in (0, 1)
        assert "import math_verify" in result.stderr and "Traceback" not in result.stderr
        assert result.stderr.count("\n") == 1
    else:
        assert (result.stdout, result.stderr) == ("equivalent\n", "")
