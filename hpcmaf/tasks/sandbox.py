"""Where programs that models wrote are run: processes of their own that reach nothing and end within limits.

``namespaces``, the default, gives a program a root of its own, with Python and the system's libraries to read, 32 MiB
of memory to write files in, and no network, no other process and no file besides. It is made by util-linux's
``unshare`` without any right of root; root becomes a user that owns nothing. ``limits``, which only a recipe can ask
for, and never as root, is for machines that are a sandbox already: it bounds time, memory, processes and sizes, but
keeps a program neither from the network nor from the files of whoever runs it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hpcmaf.errors import PlatformError
from hpcmaf.tasks import harness

SECONDS, SPACE_BYTES = 30, 32 << 20
# Of each process, under prlimit's names; processes are counted together.
LIMITS = {"cpu": 3, "as": 512 << 20, "nproc": 8, "fsize": 8 << 20, "nofile": 64, "core": 0}
_TOOLS = ("setpriv", "prlimit", "unshare", "mount", "chroot")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# A user whom nothing belongs to, one for each process that starts sandboxes: limits of processes are counted by user.
_NOBODY = 1_500_000_000


def outputs(program: Sequence[str], calls: Sequence[str], sandbox: str) -> list[str] | None:
    """What calls give, after running sources one after the other; ``None`` where they do not all end in time.

    Each is a kind - ``value``, ``raised``, or ``other`` for what is no plain value - and a text, as JSON.
    """
    replies = _replies({"program": list(program), "calls": list(calls)}, sandbox)
    return replies[: len(calls)] if len(replies) >= len(calls) else None


def passes(name: str, program: Sequence[str], tests: str, sandbox: str) -> bool:
    """Whether tests of a function pass, behind sources that define it."""
    word = secrets.token_hex()  # which the program does not know
    request = {"name": name, "program": list(program), "tests": tests, "word": word}
    return _replies(request, sandbox) == [json.dumps([word])]


@cache
def check(sandbox: str) -> None:
    """Refuse where programs cannot be run as they have to be.

    Raises
    ------
    PlatformError
        In one line, with what to do.
    """
    _command(sandbox)
    try:
        if outputs(["def one(): return 1"], ["one()"], sandbox) != ['["value", "1"]']:
            raise PlatformError("a function that returns 1 does not")
    except PlatformError as error:
        raise PlatformError(
            f"answers that are programs are not run here: {error}; allow users to make namespaces on this machine, or, "
            "where hpcmaf itself runs in a sandbox and not as root, set task.sandbox: limits"
        ) from error


def _replies(request: Mapping[str, Any], sandbox: str) -> list[str]:
    """What the harness writes in the sandbox, of which nothing is left when this returns."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "")
    environment = {"PATH": _PATH, "PYTHONHASHSEED": "0", "HOME": "/tmp", "LD_LIBRARY_PATH": libraries}
    with tempfile.TemporaryDirectory(prefix="hpcmaf-") as folder, tempfile.TemporaryFile() as found:
        try:
            said = subprocess.run(
                _command(sandbox),
                input=json.dumps(request).encode(),
                stdout=found,
                stderr=subprocess.PIPE,
                timeout=SECONDS,
                cwd=folder,
                env=environment,
                start_new_session=True,
                check=False,
            ).stderr
        except subprocess.TimeoutExpired as late:
            said = late.stderr or b""
        found.seek(0)
        replies = found.read(LIMITS["fsize"]).decode("utf-8", "replace").splitlines()
    if replies[:1] != ["ready"]:
        reason = said.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise PlatformError(f"the sandbox did not start ({reason[-1]})")
    return replies[1:]


@cache
def _command(sandbox: str) -> list[str]:
    """What runs the harness; its first process is trusted, and takes all others with it when it ends."""
    root, apart = os.geteuid() == 0, sandbox == "namespaces"
    if root and not apart:
        raise PlatformError("task.sandbox: limits do not hold root back; leave it at namespaces, or be another user")
    if missing := [tool for tool in _TOOLS[: None if apart else 2] if shutil.which(tool, path=_PATH) is None]:
        raise PlatformError(f"answers that are programs need {missing[0]}, of util-linux; install it")
    # Outside a namespace the user's other processes count, too, so that it can start none.
    limits = LIMITS if apart else LIMITS | {"nproc": 1}
    limited = ["prlimit", *(f"--{name}={value}" for name, value in limits.items())]
    python = [*limited, _python(), "-s", "-S", "-c", Path(harness.__file__).read_text("utf-8")]
    ends = ["setpriv", "--pdeathsig", "KILL"]  # with hpcmaf, however that ends
    if not apart:
        return [*ends, *python]
    libraries = filter(os.path.isdir, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    wanted = sorted({"/usr", *map(os.path.realpath, (sys.base_prefix, os.path.dirname(_python()), *libraries))})
    folders = [path for path in wanted if not any(path.startswith(f"{other}/") for other in wanted)]
    user, mapped = (f"{_NOBODY + os.getpid()}", "") if root else ("", " --user --map-root-user")
    spaces = f"--net --pid --mount --ipc --uts --fork --kill-child{mapped}"
    script = Path(__file__).with_suffix(".sh").read_text("utf-8")
    made = ["sh", "-c", script, "sandbox", str(SPACE_BYTES), user, ":".join(folders)]
    return [*ends, "unshare", *spaces.split(), *made, *python]


def _python() -> str:
    """The interpreter behind a virtual environment's."""
    found = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    return str((found if found.exists() else Path(sys.executable)).resolve())
