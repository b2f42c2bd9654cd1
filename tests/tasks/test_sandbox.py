"""Programs that mean harm: each ends within its limits, reaches nothing, and is never graded right."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from hpcmaf.errors import PlatformError
from hpcmaf.tasks import sandbox

TESTS = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(3) == 4\n"
# Each would be right if what it tries came off. OUTSIDE, PORT, OWNER and HOME are the test's.
HOSTILE = {
    "fork bomb": "import os\ndef f(x):\n    while True: os.fork()",
    "endless loop": "def f(x):\n    while True: pass",
    "endless loop at once": "while True: pass",
    "endless output": "import os\ndef f(x):\n    while True:\n        for n in range(1, 9): write(n)\n"
    "def write(n):\n    try: os.write(n, b'[\"value\", \"2\"]' * 9999)\n    except OSError: pass",
    "endless value": "def f(x): return 'x' * 10**8",
    "huge allocation": "def f(x):\n    held = [bytearray(1 << 30) for _ in range(64)]\n    return x + 1",
    "many small allocations": "def f(x):\n    held = [[0] * 1000 for _ in range(10**7)]\n    return x + 1",
    "endless recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x) + 1",
    "threads": "import threading, time\ndef f(x):\n    for _ in range(10**5): threading.Thread(target=time.sleep, args=(99,)).start()\n"
    "    return x + 1",
    "signals ignored": "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
    "    except (OSError, ValueError): pass\ndef f(x):\n    while True: pass",
    "sleep": "import time\ndef f(x):\n    time.sleep(10**6)\n    return x + 1",
    "wait for input": "import sys\ndef f(x):\n    return int(input()) + sys.stdin.readline()",
    "double fork": "import os, time\ndef f(x):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0: time.sleep(10**4)\n"
    "        os._exit(0)\n    raise SystemExit",
    "own session": "import os, time\nos.setsid()\ndef f(x): time.sleep(10**4)",
    "write outside": "def f(x):\n    open('OUTSIDE/written', 'w').write('x')\n    return x + 1",
    "delete": "import os\ndef f(x):\n    os.unlink('OUTSIDE/kept')\n    return x + 1",
    "fill the disk": "def f(x):\n    for n in range(10**4): open(f'/tmp/{n}', 'w').write('x' * (1 << 22))\n    return x + 1",
    "open many files": "def f(x):\n    held = [open('/dev/null') for _ in range(10**5)]\n    return x + 1",
    "exit at once": "import os\ndef f(x): os._exit(0)",
    "exit while defining": "import sys\ndef f(x): return x + 1\nsys.exit(0)",
    "success claimed": "import os, sys\ndef f(x):\n    for n in range(9):\n        try: os.write(n, b'ready right')\n        except OSError: pass\n"
    "    print('ready right')\n    os._exit(0)",
    "equal to all": "class All(int):\n    __eq__ = lambda self, other: True\n    __ne__ = lambda self, other: False\n"
    "class Any:\n    __eq__ = lambda self, other: True\ndef f(x): return All(9) if x > 1 else Any()",
    "tests patched": "import builtins, ast, json, sys\nbuiltins.AssertionError = type('Never', (Exception,), {})\n"
    "builtins.__dict__['eval'] = lambda *_: 2\nast.literal_eval = json.loads = lambda *_: 2\n"
    "for name, module in list(sys.modules.items()):\n    module.check = module.candidate = lambda *_: None\ndef f(x): return 9",
}
# What limits alone keep nobody from.
REACHING = {
    "network": "import socket\ndef f(x):\n    socket.create_connection(('127.0.0.1', PORT), 2)\n    return x + 1",
    "kill its parent": "import os, signal\ndef f(x):\n    for pid in (os.getppid(), OWNER, -1): os.kill(pid, signal.SIGKILL)\n    return x + 1",
    "read a secret": "def f(x):\n    open('OUTSIDE/kept').read()\n    return x + 1",
    "leave its root": "import ctypes, os\ndef f(x):\n    libc, user, mounts = ctypes.CDLL(None), 1 << 28, 1 << 17\n"
    "    if libc.unshare(user | mounts) == 0:\n        os.mkdir('/tmp/a')\n        root = os.open('/', os.O_RDONLY)\n        os.chroot('/tmp/a')\n"
    "        os.fchdir(root)\n        for _ in range(9): os.chdir('..')\n        os.chroot('.')\n    return x + os.path.exists('OUTSIDE')",
    "mount": "import ctypes\ndef f(x): return x + (ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0)",
    "shared memory": "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\nfor _ in range(6):\n"
    "    at = libc.shmat(libc.shmget(0, 90 << 20, 0o1600), None, 0)\n    ctypes.memset(at, 1, 90 << 20)\n"
    "    libc.shmdt(ctypes.c_void_p(at))\ndef f(x): return x + 1",
    "read the home": "import os\ndef f(x): return x + (len(os.listdir('HOME')) > 1)",
}


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
    sandbox.SECONDS, sandbox.CPU_SECONDS = 6, 1
    sandbox._command.cache_clear()
    kind = way.split()[-1]

    def one(program: str) -> tuple[bool, float]:
        start = time.monotonic()
        return sandbox.passes("f", [program], [], TESTS, kind), time.monotonic() - start

    with ThreadPoolExecutor(3) as pool:
        return dict(zip(programs, pool.map(one, programs.values()), strict=True))


# What tests of programs use on this machine.
KIND = "limits" if ways() == ["limits"] else "namespaces"


@pytest.mark.parametrize("way", ways())
def test_hostile_programs_end_and_harm_nothing(tmp_path: Path, way: str) -> None:
    (tmp_path / "kept").write_text("kept")
    tmp_path.chmod(0o777 if way == "root's namespaces" else 0o755)
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.1)
    known = {"OUTSIDE": tmp_path, "PORT": server.getsockname()[1], "OWNER": os.getpid(), "HOME": Path.home()}
    programs = HOSTILE if way.endswith("limits") else HOSTILE | REACHING
    if way == "limits":  # of one's own files and processes only a sandbox keeps it
        programs = {name: text for name, text in HOSTILE.items() if name not in ("write outside", "delete")}
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


def orphans() -> list[str]:
    """Processes of sandboxes whose parents have ended, after a while to end in."""
    found: list[str] = []
    for _ in range(20):
        time.sleep(0.1)
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                if b"answer_calls" in (folder / "cmdline").read_bytes():
                    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                    found += [folder.name] if parent == "1" else []
        if not found:
            break
    return found


def test_a_program_ends_with_whoever_started_it() -> None:
    program = "import time\nprint('never')\ndef f(x): time.sleep(999)"
    code = f"from hpcmaf.tasks.sandbox import passes\npasses('f', [{program!r}], [], 'f(1)', {KIND!r})"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        seen = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(seen.read_text().split()) < 2:
            time.sleep(0.05)
        process.kill()
    assert not orphans()


def test_who_cannot_run_programs_safely_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.check.cache_clear()
    if os.geteuid() == 0:
        with pytest.raises(PlatformError, match="task.sandbox: limits do not hold root back; run as another user"):
            sandbox.check("limits")
    sandbox._command.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "_PATH", "/nowhere")
        with pytest.raises(PlatformError, match="need unshare, of util-linux; install it"):
            sandbox.check("namespaces")
    monkeypatch.setattr(sandbox, "_command", lambda _: ["sh", "-c", "echo unshare: not permitted >&2; exit 1"])
    with pytest.raises(PlatformError, match=r"not run here: .* \(unshare: not permitted\); allow users .* limits$"):
        sandbox.check("namespaces")


def test_values_come_back_as_they_are() -> None:
    program = "import math\ndef f(x): return x\nclass Own(list): pass\ndef g(x): return Own(x)\ndef h(x): return range(x)\n"
    values = [(1,), [], {"a": {1, 2}}, 2**10000, -1.5, "ü\ud800\n", b"x", None, set(), {(1, "a"): [True]}]
    tests = "\n".join(f"assert f({value!r}) == {value!r}" for value in values) + "\nassert f(1e999) == math.inf"
    assert sandbox.passes("f", [program], ["import math"], tests, KIND)
    assert sandbox.passes("g", [program], [], "assert g([1]) == [1] and set(g((2, 2))) == {2}", KIND)
    assert sandbox.passes("h", [program], [], "assert h(3) != [0, 1, 2]", KIND)
    loose = sandbox.outputs([program], ["f(0.1 + 0.2)", "f(True)", "f(2.0)", "f({3, 1})", "f(float('nan'))", "h(2)", "f()"], KIND)
    wanted = ["value", "0.3"], ["value", "1"], ["value", "2"], ["value", "{1, 3}"], ["value", "nan"], ["other", "range"], ["raised", ""]
    assert loose == [str(list(one)).replace("'", '"') for one in wanted]
