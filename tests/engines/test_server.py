"""Servers are found, kept and ended, and a failed start is told from its log; with processes, and without vLLM."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import IO

import psutil
import pytest

from hpcmaf.engines import Request, Sampling, ServedModels, keeper, server, vllm
from hpcmaf.engines.options import AdapterShape, VllmOptions
from hpcmaf.engines.server import Server, hold, idle
from hpcmaf.engines.vllm import VllmEngine
from hpcmaf.engines.watching import read_failure, start_parts, written
from hpcmaf.errors import EngineError, OutOfMemory, PlatformError
from hpcmaf.micro import base_path

# A server with a child that outlives a polite end, as an engine core does when its server is killed.
PROCESSES = "sh -c 'trap : TERM; while :; do sleep 0.1; done' & exec sleep 300"


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def members(group: int) -> list[int]:
    """Processes of a group."""
    found = psutil.process_iter(["status"])
    return [one.pid for one in found if one.info["status"] != psutil.STATUS_ZOMBIE and group_of(one.pid) == group]


def group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


@pytest.fixture
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen[bytes], int, IO[str]]]:
    """A folder whose keeper runs, the keeper, its server's process group, and a lock that keeps it."""
    run = server.servers_folder(str(tmp_path_factory.mktemp("run")))
    folder, lock = run / "gpu" / "s1", hold(run / "lock")
    folder.mkdir(mode=0o700, parents=True)
    words = [str(folder), str(run / "lock"), str(run / "log"), "bash", "-c", PROCESSES]
    process = subprocess.Popen([sys.executable, "-I", keeper.__file__, *words], start_new_session=True)
    until(lambda: (folder / "pid").exists() and (folder / "pid").read_text())
    group = int((folder / "pid").read_text().split()[0])
    until(lambda: len(members(group)) >= 2)
    yield folder, process, group, lock
    lock.close()
    process.kill()
    for pid in members(group):
        os.kill(pid, signal.SIGKILL)


def test_servers_end_with_the_last_process_that_keeps_them(kept) -> None:
    folder, process, group, driver = kept
    user, other = Server(folder), Server(folder)
    task = hold(folder.parents[1] / "lock")
    driver.close()
    user.close()
    assert not list(idle([folder])) and other.alive and members(group), "somebody uses it"
    other.close()
    assert [one.alive for one in idle([folder])] == [True] and members(group), "somebody keeps it"
    task.close()
    until(lambda: not members(group))
    assert process.wait(20) == 0 and not folder.exists() and not list(idle([folder]))


def test_an_idle_server_is_ended_on_request(kept) -> None:
    folder, process, group, _ = kept
    for one in idle([folder]):
        one.end()
    assert process.wait(20) == 0, "its keeper does not wait for the others of the run"
    assert not members(group) and not folder.exists()


def test_a_killed_user_is_gone_even_if_its_child_holds_the_connection(kept) -> None:
    folder, _, group, driver = kept
    script = f"""
import os, time
from pathlib import Path
from hpcmaf.engines.server import hold
lock = hold(Path({str(folder.parents[1] / "lock")!r}))
if os.fork():
    print("ready", flush=True)
time.sleep(60)
"""
    user = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert user.stdout is not None and user.stdout.readline() == b"ready\n"
    driver.close()
    user.kill()
    until(lambda: not members(group))
    os.killpg(user.pid, signal.SIGKILL)


def test_signals_for_the_job_pass_the_server_by(kept) -> None:
    folder, process, group, _ = kept
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT):
        os.kill(process.pid, number)
        os.killpg(group, number)
    time.sleep(0.3)
    assert Server(folder).alive and len(members(group)) >= 2


@pytest.mark.parametrize("who", ["keeper", "server"])
def test_what_a_kill_leaves_is_killed(kept, who: str) -> None:
    folder, process, group, _ = kept
    user = Server(folder)
    os.kill(process.pid if who == "keeper" else group, signal.SIGKILL)
    if who == "keeper":
        process.wait()
    until(lambda: not user.alive)
    process.wait(20)
    until(lambda: not members(group))
    until(lambda: not folder.exists())


def start(command: str, tmp_path: Path, tick: Callable[[], None] = lambda: None, **more) -> None:
    options = VllmOptions(server_command=command, **more)
    engine = VllmEngine(ServedModels(str(base_path()), "lora", {}), options, device="cpu", run=tmp_path,
                        log=tmp_path / "log", on_batch=lambda _: tick())  # fmt: skip
    request = Request("k", ({"role": "user", "content": "1+1"},), None, 0, Sampling())
    try:
        asyncio.run(engine.complete(request))
    finally:
        engine.close()


slow = pytest.mark.slow  # import transformers
FAILS = "echo {!r} >&2; exit 1; :".format


@slow
@pytest.mark.parametrize(
    ("command", "says", "kind", "starts"),
    [
        (FAILS("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"), "out of memory", "memory", 2),
        (FAILS("RuntimeError: No CUDA GPUs are available"), "No CUDA GPUs are available; see .*log$", "hardware", 2),
        (FAILS("RuntimeError: NCCL error: unhandled system error"), "NCCL error", "hardware", 2),
        (FAILS("api_server.py: error: unrecognized arguments: --frobnicate"), "frobnicate", "refused", 1),
        (FAILS("ValueError: User-specified max_model_len (9) is greater than the derived max_model_len (4)"), "derived",
         "refused", 1),
        ("no-such-vllm serve", "no-such-vllm: command not found", "refused", 1),
        ("sleep 300; :", "not up after 0.01 minutes", "hardware", 2),
    ],
)  # fmt: skip
def test_a_failed_start_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, says: str, kind: str, starts: int
) -> None:
    """With less where memory does not suffice, else once more, or not at all where that would be in vain."""
    monkeypatch.setattr(vllm, "_PAUSE_SECONDS", 0.1)
    count = tmp_path / "count"
    with pytest.raises((EngineError, OutOfMemory), match=says) as raised:
        start(f"echo x >> {count}; {command}", tmp_path, start_minutes=0.01 if "sleep" in command else 5.0)
    assert raised.value.kind == kind and "\n" not in str(raised.value)
    assert isinstance(raised.value, OutOfMemory) == (kind == "memory")
    assert len(count.read_text().split()) == starts
    assert not list(server.servers_folder(str(tmp_path.resolve())).glob("*/s*"))


@slow
def test_starts_differ_in_nothing_that_decides_whether_compiled_code_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM hashes its environment variables: a key among them, which differs every time, has all compiled anew."""
    monkeypatch.setattr(vllm, "_PAUSE_SECONDS", 0.1)
    monkeypatch.setenv("VLLM_API_KEY", "somebody else's")
    with pytest.raises(EngineError):
        start(f"env | grep ^VLLM_ | sort > {tmp_path}/$$.env; {FAILS('RuntimeError: busy')}", tmp_path)
    first, second = (file.read_text() for file in tmp_path.glob("*.env"))
    assert first == second and "KEY" not in first and "VLLM_CACHE_ROOT=" in first


REFUSING = """
import json, sys, time
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingUnixStreamServer

class Handler(BaseHTTPRequestHandler):
    address_string = lambda self: ""

    def do_GET(self, status=200, value={"data": [{"max_model_len": 1024}]}):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def do_POST(self):
        self.do_GET(400, {"error": "this adapter has 9 ranks"})

ThreadingUnixStreamServer(sys.argv[sys.argv.index("--uds") + 1], Handler).serve_forever()
"""


@slow
def test_what_a_server_refuses_does_not_end_it(tmp_path: Path) -> None:
    script = tmp_path / "refusing.py"
    script.write_text(REFUSING)
    where = server.servers_folder(str(tmp_path.resolve()))
    with closing(hold(where / "lock")):
        with pytest.raises(EngineError, match="refuses its self-test: 400 .*this adapter has 9 ranks.*; see .*log$"):
            start(f"{sys.executable} {script}", tmp_path)
        assert [one.alive for one in idle(where.glob("*/s*"))] == [True]


@slow
def test_others_start_once_the_first_has_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them waits until it is up, which takes several times as long; and a start that is stopped leaves nothing."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))
    said, pids = tmp_path / "said", tmp_path / "pids"
    command = f"echo $$ >> {pids}; echo begun >> {said}; sleep 1; echo compiled >> {said}; "
    command += "echo torch.compile took 1.0 s; sleep 300; :"

    class Stop(Exception):
        pass

    def tick() -> None:
        if said.exists() and said.read_text().count("compiled") == 3:
            raise Stop

    with pytest.raises(Stop):
        start(command, tmp_path, tick, engines=3, vllm_args={"enforce_eager": False})
    assert said.read_text().split() == ["begun", "compiled", "begun", "begun", "compiled", "compiled"]
    until(lambda: not any(map(members, map(int, pids.read_text().split()))))


def test_servers_take_the_gpus_that_a_task_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-a,6,7")
    taken = {
        (2, 1, 1): ["4", "GPU-a"],
        (2, 1, 2): ["4,GPU-a", "6,7"],
        (4, 2, 1): ["4", "4", "GPU-a", "GPU-a"],
        (3, 3, 1): [None] * 3,  # the one GPU that there is
        (1, 1, 4): [None],
    }
    for (engines, each, parallel), devices in taken.items():
        options = VllmOptions(engines=engines, engines_per_gpu=each, tensor_parallel=parallel)
        assert [options.devices("cuda", number) for number in range(engines)] == devices
    with pytest.raises(PlatformError, match="5 servers take 5 GPUs, but this task sees 4; lower generation.engines"):
        VllmOptions(engines=5).devices("cuda", 0)


@slow
def test_what_vllm_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="generation.reproducible: .* needs a GPU"):
        start("true", tmp_path, reproducible=True)
    served = ServedModels(str(base_path()), "lora", {})
    with pytest.raises(EngineError, match="no adapter on lm_head; use generation.engine: transformers"):
        VllmEngine(served, device="cpu", room=AdapterShape(1, 4, ("lm_head", "q_proj")))
    with pytest.raises(EngineError, match="no PEFT adapter for critic-0"):
        VllmEngine(replace(served, agents={"critic-0": str(tmp_path)}), device="cpu")
    assert VllmOptions().rests("cuda", "full") == "stop", "whole checkpoints change while agents are trained"


LOG = """
(APIServer pid=1) INFO 11-30 08:00:00 [api_utils.py:286] non-default args: {'dtype': 'float32'}
(EngineCore pid=2) INFO 11-30 08:00:20 [default_loader.py:501] Loading weights took 3.20 seconds
(EngineCore pid=2) INFO 11-30 08:00:40 [monitor.py:48] torch.compile took 12.5 s in total
(EngineCore pid=2) INFO 11-30 08:00:50 [gpu_model_runner.py:9] Graph capturing finished in 8 secs, took 0.5 GiB
(EngineCore pid=2) INFO 11-30 08:00:51 [core.py:402] init engine (profile, create kv cache, warmup model) took 27.30 s
"""


def test_the_parts_of_a_start() -> None:
    parts = start_parts(LOG, 60.0)
    assert parts == {"start": 60.0, "weights": 3.2, "compile": 12.5, "profile and cache": 27.3, "capture": 8.0,
                     "imports and rest": 29.5}  # fmt: skip


def test_the_cause_is_found_among_what_follows_from_it(tmp_path: Path) -> None:
    text = textwrap.dedent("""
        (EngineCore pid=7) ERROR 11-30 08:00:00 [core.py:9] EngineCore failed to start.
        (EngineCore pid=7) ERROR 11-30 08:00:00 [core.py:9] Traceback (most recent call last):
        (EngineCore pid=7) ERROR 11-30 08:00:00 [core.py:9] torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB
        (EngineCore pid=7) ValueError: something that came of it
        (APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.
    """)
    assert read_failure(text) == ("torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB", "memory")
    assert read_failure("") == ("it wrote nothing", "hardware")
    running = "(APIServer pid=1) INFO 11-30 08:00:00 [loggers.py:9] Engine 000: Running: 2 reqs, KV cache usage: 9.0%"
    assert read_failure(running)[1] == "hardware", "it was killed, and memory did not run out"
    stale = "safetensors_rust.SafetensorError: Error while deserializing header: Stale file handle (os error {})"
    assert [read_failure(stale.format(number))[1] for number in (116, 13)] == ["hardware", "refused"]
    log = tmp_path / "log"
    log.write_text(text)
    facts = {"log": str(log), "log_offset": log.stat().st_size}
    log.write_text(f"{text}RuntimeError: of the next server in this log")
    assert read_failure(written(facts)) == ("RuntimeError: of the next server in this log", "hardware")


def test_others_cannot_enter_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert not server.servers_folder("run").is_relative_to(tmp_path), "names of sockets would be too long there"
    monkeypatch.setattr(tempfile, "tempdir", tempfile.mkdtemp(dir="/tmp"))
    folder = server.servers_folder("run")
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
    folder.parent.chmod(0o755)
    with pytest.raises(PlatformError, match="others can enter it"):
        server.servers_folder("run")
