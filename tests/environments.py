"""What tests need beside the packages of this environment: installed once, in folders of their own under it."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder; made when there is none that was completed, by whichever process comes first."""
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            (folder / "complete").touch()
    return folder


def uv(*arguments: str | Path) -> None:
    """Run uv; what it says is shown if it fails."""
    command = [sys.executable, "-m", "uv"] if shutil.which("uv", path=Path(sys.executable).parent) else ["uv"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, arguments))}\n{done.stderr[-3000:]}"


def package(name: str, requirement: str) -> Path:
    """A folder to put on PYTHONPATH: a package without what else it asks for."""

    def make(folder: Path) -> None:
        uv("pip", "install", "--python", sys.executable, "--no-deps", "--target", folder, requirement)

    return made_once(Path(sys.prefix, "models", name), make)
