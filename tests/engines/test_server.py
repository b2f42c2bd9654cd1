"""Servers are found, kept and ended, and a failed start is told from its log; with processes, and without vLLM."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpcmaf.engines import keeper, server
from hpcmaf.engines.options import ServerSpec, VllmOptions
from hpcmaf.engines.server import Server, find, obtain, read_failure, start_parts
from hpcmaf.errors import EngineError, OutOfMemory, PlatformError
from hpcmaf.files import locking
from hpcmaf.files.locking import locked

# A server with a child that outlives a polite end, as an engine core does when its server is killed.
PROCESSES = "sh -c 'trap : TERM; while :; do sleep 0.1; done' & exec sleep 300"


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def members(group: int) -> list[int]:
    """Processes of a group."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, IndexError):
            continue
        if entry.name.isdigit() and int(fields[2]) == group and fields[0] != "Z":
            found.append(int(entry.name))
    return found


@pytest.fixture
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen[bytes], int]]:
    """A folder whose keeper runs, the keeper, and its server's process group."""
    folder = server.servers_folder(str(tmp_path_factory.mktemp("run"))) / "s1"
    folder.mkdir(mode=0o700)
    log = folder.parent / "log"
    command = [sys.executable, "-I", keeper.__file__, str(folder), str(log), "bash", "-c", PROCESSES]
    process = subprocess.Popen(command, start_new_session=True)
    until(lambda: (folder / "keeper.sock").exists() and (folder / "pid").exists())
    group = int((folder / "pid").read_text().split()[0])
    until(lambda: len(members(group)) >= 2)
    yield folder, process, group
    process.kill()
    for pid in members(group):
        os.kill(pid, signal.SIGKILL)


def test_a_server_ends_with_its_last_user(kept, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, process, group = kept
    select = server.select.select
    first, second = Server(folder, b"u"), Server(folder, b"r")
    assert first.users() == 1
    monkeypatch.setattr(server.select, "select", lambda *given: select(*given[:3], min(0.5, given[3])))
    first.end()
    assert second.alive and members(group), "somebody uses it"
    first.close()
    until(lambda: second.users() == 0)
    assert second.alive and members(group), "a driver keeps it between its users"
    second.close()
    until(lambda: not members(group))
    assert process.wait(20) == 0 and not folder.exists()


def test_an_idle_server_is_ended_on_request(kept) -> None:
    folder, process, group = kept
    driver, engine = Server(folder, b"r"), Server(folder, b"")
    engine.end()
    until(lambda: not members(group))
    until(lambda: not driver.alive)


def test_a_killed_user_is_gone_even_if_its_child_holds_the_connection(kept) -> None:
    folder, process, group = kept
    script = f"""
import os, time
from pathlib import Path
from hpcmaf.engines.server import Server
held = Server(Path({str(folder)!r}), b"u")
if os.fork():
    print("ready", flush=True)
time.sleep(60)
"""
    user = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert user.stdout is not None and user.stdout.readline() == b"ready\n"
    user.kill()
    until(lambda: not members(group))
    os.killpg(user.pid, signal.SIGKILL)


def test_signals_for_the_job_pass_the_server_by(kept) -> None:
    folder, process, group = kept
    held = Server(folder, b"u")
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT):
        os.kill(process.pid, number)
        os.killpg(group, number)
    time.sleep(0.3)
    assert held.alive and len(members(group)) >= 2


@pytest.mark.parametrize("who", ["keeper", "server"])
def test_what_a_kill_leaves_is_killed(kept, who: str) -> None:
    folder, process, group = kept
    held = Server(folder, b"u")
    os.kill(process.pid if who == "keeper" else group, signal.SIGKILL)
    until(lambda: not held.alive)
    until(lambda: not members(group))
    until(lambda: not folder.exists())


def spec(command: str, **more) -> ServerSpec:
    return ServerSpec("model", None, False, "auto", "cpu", VllmOptions(server_command=command, **more))


def start(command: str, tmp_path: Path, **more) -> None:
    async def run() -> None:
        where = server.servers_folder(str(tmp_path)) / "all"
        await obtain(spec(command, **more), where, 1, tmp_path / "log", lambda: None, {})

    asyncio.run(run())




@pytest.mark.parametrize(
    ("line", "says", "kind", "starts"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "out of memory", "memory", 5),
        ("RuntimeError: No CUDA GPUs are available", "it finds no GPU", "hardware", 2),
        ("RuntimeError: NCCL error: unhandled system error", "NCCL error", "hardware", 2),
        ("api_server.py: error: unrecognized arguments: --frobnicate", "frobnicate", "refused", 1),
        ("ValueError: User-specified max_model_len (9) is greater than the derived max_model_len (4)", "derived",
         "refused", 1),
    ],
)  # fmt: skip
def test_a_failed_start_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, says: str, kind: str, starts: int
) -> None:
    """With less where memory does not suffice, else once more, or not at all where that would be in vain."""
    monkeypatch.setattr(server, "_PAUSE_SECONDS", 0.1)
    count = tmp_path / "count"
    command = f"echo x >> {count}; echo {line!r} >&2; exit 1; :"
    with pytest.raises((EngineError, OutOfMemory), match=says) as raised:
        start(command, tmp_path)
    assert raised.value.kind == kind and "\n" not in str(raised.value)
    assert isinstance(raised.value, OutOfMemory) == (kind == "memory")
    assert len(count.read_text().split()) == starts
    assert not list(server.servers_folder(str(tmp_path)).glob("all/s*"))


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no-such-vllm: command not found"):
        start("no-such-vllm serve", tmp_path)


def test_a_start_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_PAUSE_SECONDS", 0.1)
    with pytest.raises(EngineError, match="not up after 0.01 minutes") as raised:
        start("sleep 300; :", tmp_path, start_minutes=0.01)
    assert raised.value.kind == "hardware"


def test_a_start_can_be_stopped_and_leaves_nothing(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    pids = tmp_path / "pid"

    def tick() -> None:
        if pids.exists():
            raise Stop

    async def run() -> None:
        where = server.servers_folder(str(tmp_path)) / "all"
        await obtain(spec(f"echo $$ > {pids}; sleep 300; :"), where, 1, tmp_path / "log", tick, {})

    with pytest.raises(Stop):
        asyncio.run(run())
    until(lambda: not members(int(pids.read_text())))


def test_batch_invariance_is_not_to_be_had_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="generation.reproducible: .* needs a GPU"):
        start("true", tmp_path, reproducible=True)


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


def test_the_cause_is_found_among_what_follows_from_it() -> None:
    text = textwrap.dedent("""
        (EngineCore pid=7) ERROR 11-30 08:00:00 [core.py:9] EngineCore failed to start.
        (EngineCore pid=7) ERROR 11-30 08:00:00 [core.py:9] Traceback (most recent call last):
        (EngineCore pid=7) ERROR 11-30 08:00:00 [core.py:9] torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB
        (EngineCore pid=7) ValueError: something that came of it
        (APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.
    """)
    assert read_failure(text) == ("torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB", "memory")
    assert read_failure("vllm: error: unrecognized arguments: --uds /x")[1] == "socket"
    assert read_failure("") == ("it wrote nothing", "crash")


def test_one_compiles_and_the_others_wait(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    async def hold(name: str) -> None:
        async with locked(tmp_path / "lock", None, lambda: None, "another task to compile"):
            order.append(name)
            await asyncio.sleep(0.7)
            order.append(name)

    async def both() -> None:
        await asyncio.gather(hold("a"), hold("b"))

    asyncio.run(both())
    assert order in (list("aabb"), list("bbaa"))
    assert capfd.readouterr().err.count("waiting for another task to compile") == 1


def test_a_lock_that_is_not_to_be_had_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither where the file system has none, nor where another holds it for ever, nor when asked to stop."""

    async def take(patience: float | None, tick: Callable[[], None] = lambda: None) -> None:
        async with locked(tmp_path / "lock", patience, tick, "another task"):
            pass

    with (tmp_path / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        asyncio.run(take(0.2))
        assert "going on without it" in capfd.readouterr().err
        with pytest.raises(KeyError):
            asyncio.run(take(None, lambda: {}["stop"]))

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locking.fcntl, "flock", refuse)
    asyncio.run(take(None))
    assert "No locks available; going on without a lock" in capfd.readouterr().err


def test_others_cannot_enter_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(server, "_LONGEST_SOCKET", 1000)
    folder = server.servers_folder("run")
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
    folder.parent.chmod(0o755)
    with pytest.raises(PlatformError, match="others can enter it"):
        server.servers_folder("run")
    assert find(folder, b"u") is None
