"""Where a run lies: can everybody see it, do locks hold there, is there room?"""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcmaf.errors import HpcmafError, RunBusyError
from hpcmaf.files.locking import lock
from hpcmaf.launch.doctor.finding import Finding, ok, problem, warning
from hpcmaf.run.directory import RunDir

_SHARED = re.compile(
    r"nfs4?|lustre|gpfs|beegfs\w*|ceph|fuse\.ceph\S*|glusterfs|fuse\.glusterfs|panfs|wekafs|orangefs|afs|cifs|9p|virtiofs|fuse\.sshfs"
)
_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs", "overlay", "squashfs"})
_LITTLE_SPACE = 10 * 2**30
_FEW_FILES = 20_000


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system."""

    point: Path
    kind: str
    options: frozenset[str]


def mounts(text: str) -> list[Mount]:
    """Read ``/proc/self/mounts``."""
    found = []
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) >= 4:
            # Blanks and such are written as \\040.
            point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields[1])
            found.append(Mount(Path(point), fields[2], frozenset(fields[3].split(","))))
    return found


def mount_of(path: Path, known: list[Mount]) -> Mount | None:
    """The mount that a path lies on: the deepest, and of those on one point the last."""
    around = [mount for mount in known if path.is_relative_to(mount.point)]
    return max(enumerate(around), key=lambda pair: (len(pair[1].point.parts), pair[0]))[1] if around else None


def examine_place(run: RunDir, *, shared: bool) -> Iterator[Finding]:
    """Look at the file system of a run directory, or of where it would be made.

    Parameters
    ----------
    shared
        Whether jobs on other machines have to see it.
    """
    root = run.root.resolve()
    folder = next(path for path in (root, *root.parents) if path.is_dir())
    if run.plan.exists():
        try:
            run.load_plan()
            yield ok("run directory", str(root))
        except HpcmafError as error:
            yield problem("run directory", str(error), "see the message")
    if shared:
        from hpcmaf.launch.slurm.requests import check_path

        try:
            check_path(root)
        except HpcmafError as error:
            yield problem("run directory", str(error), "choose another --run")
        yield from _sharing(folder)
    yield _flock(folder)
    yield _fsync(folder)
    yield from _room(folder)


def _sharing(folder: Path) -> Iterator[Finding]:
    area = "shared folder"
    mount = mount_of(folder, mounts(Path("/proc/self/mounts").read_text(errors="surrogateescape")))
    if mount is None:
        yield warning(area, f"{folder}: its file system is not known", "make sure that all nodes see it; --probe tries")
        return
    text = f"{folder} is on {mount.kind} ({mount.point})"
    if mount.kind in _IN_MEMORY:
        yield problem(
            area, f"{text}, which only this machine sees", "put runs on a shared file system: --run FOLDER/NAME"
        )
        return
    options = mount.options
    local = {"nolock", "local_lock=all", "local_lock=flock", "localflock", "noflock"} & options
    if mount.kind == "lustre" and not {"flock", "localflock", "noflock"} & options:
        local = {"no flock"}
    if local:
        yield problem(
            area,
            f"{text}, mounted with {', '.join(sorted(local))}: locks are not seen on other nodes",
            "ask for a mount whose locks hold across nodes, or put runs elsewhere",
        )
    elif _SHARED.fullmatch(mount.kind):
        yield ok(area, text)
    else:
        yield warning(area, f"{text}, which other nodes see only if it is exported", "--probe tries whether they do")


def _flock(folder: Path) -> Finding:
    """Take a lock twice: the second has to be refused."""
    path = folder / f".hpcmaf-doctor-{uuid.uuid4().hex[:12]}"
    try:
        with lock(path, ""):
            try:
                with lock(path, ""):
                    return problem(
                        "locks", f"{folder}: a lock can be held twice", "put runs on a file system with flock"
                    )
            except RunBusyError:
                return ok("locks", f"flock holds in {folder}")
    except HpcmafError as error:
        return problem("locks", *str(error).split("; ", 1))
    except OSError as error:
        return problem("locks", f"{folder}: {error.strerror}", "name a folder that you may write to: --run")
    finally:
        path.unlink(missing_ok=True)


def _fsync(folder: Path) -> Finding:
    """Where a folder cannot be synced, what is published goes without; other errors would stop a run."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            return problem("fsync", f"{folder}: {error.strerror}", "put runs on another file system: --run")
        return ok("fsync", f"{folder}: folders have none; files do without")
    finally:
        os.close(descriptor)
    return ok("fsync", f"fsync works in {folder}")


def _room(folder: Path) -> Iterator[Finding]:
    try:
        free, files = shutil.disk_usage(folder).free, os.statvfs(folder)
    except OSError as error:
        yield warning("disk space", f"{folder}: {error.strerror}", "check the path")
        return
    text = f"{free / 2**30:.1f} GiB free at {folder} (quotas are not seen)"
    if free < _LITTLE_SPACE:
        yield warning("disk space", text, "free some: models of several agents and iterations are kept")
    else:
        yield ok("disk space", text)
    if 0 < files.f_files and files.f_favail < _FEW_FILES:
        yield warning(
            "disk space", f"room for only {files.f_favail} more files", "delete some; a run makes several per task"
        )
