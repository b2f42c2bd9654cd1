"""Programs that mean harm: each ends within its limits, reaches nothing, and is never graded right."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from hpcmaf.errors import PlatformError
from hpcmaf.tasks import sandbox

TESTS = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(3) == 4\n"
PROGRAMS = dict(part.split("\n", 1) for part in Path(__file__).with_name("hostile.txt").read_text().split("\n=== ")[1:])


def ways() -> list[str]:
    """How this machine can run programs; whoever is root tries what others can do, too."""
    if os.geteuid() == 0:
        return ["root's namespaces", "a user's namespaces", "a user's limits"]
    try:
        sandbox.check("namespaces")
    except PlatformError:
        return ["limits"]
    return ["namespaces", "limits"]


def nobody(folder: str) -> None:
    """Become a user without rights, whose Python must not lie in root's home."""
    tempfile.tempdir = folder
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    sandbox._python = lambda: shutil.which("python3", path="/usr/bin:/bin") or sys.executable
    sys.base_prefix = "/usr"


def run(programs: dict[str, str], way: str) -> dict[str, tuple[bool, float]]:
    """Which programs pass the tests, and the seconds that each took."""
    sandbox.SECONDS, sandbox.LIMITS["cpu"] = 6, 1
    sandbox._command.cache_clear()
    kind = way.split()[-1]

    def one(program: str) -> tuple[bool, float]:
        start = time.monotonic()
        return sandbox.passes("f", [program], TESTS, kind), time.monotonic() - start

    with ThreadPoolExecutor(3) as pool:
        return dict(zip(programs, pool.map(one, programs.values()), strict=True))


# What tests of programs use on this machine.
KIND = "limits" if ways() == ["limits"] else "namespaces"


@pytest.mark.slow
@pytest.mark.parametrize("way", ways())
def test_hostile_programs_end_and_harm_nothing(tmp_path: Path, way: str) -> None:
    (tmp_path / "kept").write_text("kept")
    tmp_path.chmod(0o777 if way == "root's namespaces" else 0o755)
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.1)
    known = {"OUTSIDE": tmp_path, "PORT": server.getsockname()[1], "OWNER": os.getpid(), "HOME": Path.home()}
    programs = PROGRAMS
    if way.endswith("limits"):
        programs = {name: text for name, text in PROGRAMS.items() if "limits alone" not in name}
    if way == "limits":  # one's own files are nobody else's
        del programs["write outside"], programs["delete"]
    for mark, value in known.items():
        programs = {name: text.replace(mark, str(value)) for name, text in programs.items()}
    programs |= {"honest": "def f(x): return x + 1"}
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        start = {"initializer": nobody, "initargs": (folder,)} if way.startswith("a user") else {}
        with multiprocessing.get_context("fork").Pool(1, **start) as pool:
            found = pool.apply(run, (programs, way))
    assert [name for name, (right, _) in found.items() if right] == ["honest"]
    assert max(seconds for _, seconds in found.values()) < 60
    assert (tmp_path / "kept").read_text() == "kept" and [path.name for path in tmp_path.iterdir()] == ["kept"]
    with pytest.raises(TimeoutError):
        server.accept()
    server.close()
    assert not orphans()


def orphans() -> list[int]:
    """Processes of sandboxes whose parents have ended, after a while to end in."""
    found: list[int] = []
    for _ in range(20):
        time.sleep(0.1)
        adopted = [one for one in psutil.process_iter(["ppid", "cmdline"]) if one.info["ppid"] == 1]
        found = [one.pid for one in adopted if "whatever the program puts" in " ".join(one.info["cmdline"] or ())]
        if not found:
            break
    return found


def test_a_program_ends_with_whoever_started_it() -> None:
    program = "import time\nprint('never')\ndef f(x): time.sleep(999)"
    code = f"from hpcmaf.tasks.sandbox import passes\npasses('f', [{program!r}], 'f(1)', {KIND!r})"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        seen = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not seen.read_text().split():
            time.sleep(0.05)
        process.kill()
    assert not orphans()


def test_who_cannot_run_programs_safely_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.check.cache_clear()
    if os.geteuid() == 0:
        with pytest.raises(PlatformError, match="task.sandbox: limits do not hold root back; leave it at namespaces"):
            sandbox.check("limits")
    sandbox._command.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "_PATH", "/nowhere")
        with pytest.raises(PlatformError, match="need setpriv, of util-linux; install it"):
            sandbox.check("namespaces")
    monkeypatch.setattr(sandbox, "_command", lambda _: ["sh", "-c", "echo unshare: not permitted >&2; exit 1"])
    with pytest.raises(PlatformError, match=r"not run here: .* \(unshare: not permitted\); allow users .* limits$"):
        sandbox.check("namespaces")


def test_values_come_back_as_they_are() -> None:
    program = (
        "import math\ndef f(x): return x\nclass Own(list): pass\ndef g(x): return Own(x)\ndef h(x): return range(x)\n"
    )
    values = [(1,), [], {"a": {1, 2}}, 2**10000, -1.5, "ü\ud800\n", b"x", None, set(), {(1, "a"): [True]}]
    tests = "\n".join(f"assert f({value!r}) == {value!r}" for value in values) + "\nassert f(1e999) == math.inf"
    assert sandbox.passes("f", [program], tests, KIND)
    assert sandbox.passes("g", [program], "assert g([1]) == [1] and set(g((2, 2))) == {2}", KIND)
    assert sandbox.passes("h", [program], "assert h(3) != [0, 1, 2]", KIND)
    loose = {
        "f(0.1 + 0.2)": ("value", "0.3"),
        "f(True)": ("value", "1"),
        "f(2.0)": ("value", "2"),
        "f({3, 1})": ("value", "{1, 3}"),
        "f(float('nan'))": ("value", "nan"),
        "h(2)": ("other", "range"),
        "f()": ("raised", ""),
    }
    assert sandbox.outputs([program], list(loose), KIND) == [json.dumps(reply) for reply in loose.values()]
