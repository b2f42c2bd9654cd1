"""Folders for what is made once and kept between jobs."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path


def user_cache(name: str) -> Path:
    """The user's cache for ``name``, or a temporary folder where there is no home to write to."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    # "~" stays where neither HOME nor /etc/passwd knows of a home.
    return writable(Path(home, "hpcmaf", name), name) if os.path.isabs(home) else _temporary(name)


def writable(folder: Path, name: str) -> Path:
    """``folder``, made if need be, or one of this machine's that can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    except OSError as error:
        there = tempfile.gettempdir()
        print(f"{folder}: {error.strerror}; what would be kept there is kept under {there}", file=sys.stderr)
    return _temporary(name)


def _temporary(name: str) -> Path:
    folder = Path(tempfile.gettempdir(), f"hpcmaf-{name}-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    # What is kept there is run. Anybody may have made a folder of that name where all may write.
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
        return folder
    return Path(tempfile.mkdtemp(prefix=f"hpcmaf-{name}-"))
