"""An engine's own process: it is started again once, and leaves nothing behind, however the job ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hpcmaf.engines.journal import Journal
from hpcmaf.engines.vllm_cache import cache_folder, compiling, under_one_name
from hpcmaf.errors import EngineError
from tests.vllm.societies import AGENTS, ask, full_agents, lora_agents, run, served, vllm_engine

ENDLESS = {"text": "1" * 300, "temperature": 2.0, "top_p": 1.0, "max_new_tokens": 600}


def processes() -> dict[int, int]:
    """Every process and its parent."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return {int(child): int(parent) for child, parent in (line.split() for line in table.splitlines())}


def engines(pid: int) -> set[int]:
    """Engine processes that a process has started."""
    return {child for child, parent in processes().items() if parent == pid and b"vllm_process" in command_line(child)}


def descendants(pid: int) -> set[int]:
    """Processes below one, all generations."""
    parents, found, fresh = processes(), set(), {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_crash_in_mid_shard(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Signals meant for the job pass by the engine; killed, it is started once more and goes on; then it says why."""
    engine = vllm_engine(served(), process="own", max_num_seqs=1, journal=Journal(tmp_path / "j"))
    requests = [ask(f"k{i}", seed=i, **ENDLESS) for i in range(6)]
    killed: list[int] = []

    async def disturbed(deaths: int) -> list[Any]:
        tasks = [asyncio.ensure_future(engine.complete(request)) for request in requests[: 3 * deaths]]
        while len(killed) < deaths:
            await asyncio.sleep(0.02)
            (pid,) = engines(os.getpid()) or {0}
            if pid in (0, *killed) or not engine._crew.in_flight:
                continue
            if not killed:
                for number in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
                    os.kill(pid, number)
                await asyncio.sleep(0.1)
                assert engines(os.getpid()) == {pid}
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        return await asyncio.gather(*tasks, return_exceptions=True)

    first = asyncio.run(disturbed(1))
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("vLLM stopped working")]
    assert said == ["vLLM stopped working (its process ended (killed by SIGKILL)); starting it once more"]
    assert [completion.completion_tokens > 0 for completion in first] == [True] * 3

    second = asyncio.run(disturbed(2))
    errors = {str(error) for error in second if isinstance(error, EngineError)}
    assert errors == {"vLLM stopped working a second time: its process ended (killed by SIGKILL); see the task's log"}
    engine.close()
    assert not engines(os.getpid())
    assert [Journal(tmp_path / "j").find(request) for request in requests[:3]] == first, "what was done is kept"


@pytest.mark.slow
def test_a_killed_job_leaves_no_engine_and_loses_what_was_in_flight(tmp_path: Path) -> None:
    """Of two engines over one queue, in processes of their own; a later job with one makes the rest."""
    agents = lora_agents(tmp_path / "agents")
    requests = [ask(f"k{i}", f"{i}+2*3", [None, *AGENTS][i % 5], max_new_tokens=60) for i in range(200)]
    script = f"""
import json, sys
from tests.vllm.societies import *
from hpcmaf.engines.journal import Journal

def both_at_work(_):
    if all(seat.in_flight for seat in engine.seats):
        Path({str(tmp_path / "both")!r}).touch()

requests = [ask(f"k{{i}}", f"{{i}}+2*3", [None, *AGENTS][i % 5], max_new_tokens=60) for i in range(200)]
engine = vllm_engine(served({agents!r}), process="own", engines=2, max_num_seqs=8, on_batch=both_at_work,
                     journal=Journal(Path({str(tmp_path / "j")!r})))
run(engine, requests)
print("finished")
"""
    job = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    journal = tmp_path / "j"
    until(lambda: journal.exists() and journal.stat().st_size > 0 and (tmp_path / "both").exists(), 300)
    left = descendants(job.pid)
    assert len(engines(job.pid)) == 2
    os.kill(job.pid, signal.SIGKILL)
    assert "finished" not in job.communicate()[0]
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), 20)

    kept = len(Journal(journal))
    assert 0 < kept < 200
    engine = vllm_engine(served(agents), journal=Journal(journal))
    sent: list[str] = []
    row = engine._row
    engine._row = lambda id, waiting, room: sent.append(waiting.request.key) or row(id, waiting, room)
    resumed = run(engine, requests)
    engine.close()
    assert len(sent) == 200 - kept

    fresh = vllm_engine(served(agents))
    assert run(fresh, requests) == resumed, "greedy text does not depend on where the kill fell"
    fresh.close()


@pytest.mark.slow
def test_the_next_checkpoint_is_prepared_meanwhile(tmp_path: Path) -> None:
    """While one model works the next one's process waits; afterwards none is left."""
    names = ("generator-0", "generator-1")
    engine = vllm_engine(served(full_agents(tmp_path, names), "full"), process="own")
    requests = [ask(f"{name}/{i}", f"{i % 10}+2*3", name) for name in names for i in range(60)]
    most = 0

    async def watched() -> list[Any]:
        nonlocal most
        made = asyncio.gather(*(engine.complete(request) for request in requests))
        while not made.done():
            # Often: both are there only as long as the first still has answers to give.
            await asyncio.sleep(0.02)
            most = max(most, len(engines(os.getpid())))
        return await made

    made = asyncio.run(watched())
    engine.close()
    assert most == 2
    assert not engines(os.getpid())
    assert [completion.finish_reason for completion in made] == ["stop"] * 120


@pytest.mark.slow
def test_checkpoints_of_one_shape_are_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's own key of what it compiles is that of the other checkpoint, and a stranger's is not."""
    from vllm import EngineArgs

    folders = full_agents(tmp_path / "agents", ("generator-0", "generator-1"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))

    def key(model: str, **more: Any) -> str:
        settings = {"dtype": "float32", "skip_tokenizer_init": True, "enforce_eager": True}
        return EngineArgs(model=model, **settings, **more).create_engine_config().compute_hash()

    keys = []
    for folder in folders.values():
        with under_one_name(folder) as model:
            keys.append(key(model))
            longer = key(model, max_model_len=512)
    assert keys[0] == keys[1] != longer
    assert key(folders["generator-0"]) != key(folders["generator-1"]), "then there is no need for all this"
    assert not list((tmp_path / "tmp").iterdir())


def test_one_compiles_and_the_others_wait(tmp_path: Path) -> None:
    """Of jobs that start together the first compiles; one that dies of it leaves the next to try."""
    script = """
import sys, time
from pathlib import Path
from hpcmaf.engines.vllm_cache import compiling
folder, name = Path(sys.argv[1]), sys.argv[2]
with compiling(folder, {"shape": 1}):
    start = time.time()
    if name == "0":
        print("in", flush=True)
        time.sleep(60)
    time.sleep(0.3)
    (folder / f"span-{name}").write_text(f"[{start}, {time.time()}]")
"""
    jobs = [subprocess.Popen([sys.executable, "-c", script, tmp_path, "0"], stdout=subprocess.PIPE, text=True)]
    assert jobs[0].stdout is not None and jobs[0].stdout.readline() == "in\n"
    jobs += [subprocess.Popen([sys.executable, "-c", script, tmp_path, name]) for name in "123"]
    time.sleep(1.5)
    assert not list(tmp_path.glob("span-*"))
    jobs[0].kill()
    assert [job.wait(30) for job in jobs[1:]] == [0, 0, 0]
    jobs[0].communicate()
    spans = sorted(json.loads(path.read_text()) for path in tmp_path.glob("span-*"))
    assert spans[0][1] <= spans[1][0], "the second began before the first was done"
    start = time.monotonic()
    with compiling(tmp_path, {"shape": 1}), compiling(tmp_path, {"shape": 1}):
        pass
    assert time.monotonic() - start < 1, "what is compiled is free to all"


def test_where_compiled_code_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CACHE_ROOT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "hpcmaf" / "vllm"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    assert cache_folder().parent == tmp_path / "tmp"
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
