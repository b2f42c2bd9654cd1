"""Slurm's client commands, played from texts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

SlurmSays = Callable[..., Path]


@pytest.fixture
def slurm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmSays:
    """Puts programs into the PATH that print given texts, or fail; returns the file with a line for every call."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def say(**texts: str | int) -> Path:
        for name, text in texts.items():
            answer = folder / f"{name}.txt"
            answer.write_text(text if isinstance(text, str) else "")
            program = folder / name
            fails = f"echo '{name}: error: Unable to contact slurm controller' >&2; exit {text}"
            body = f"cat '{answer}'" if isinstance(text, str) else fails
            program.write_text(f"#!/bin/sh\necho {name} \"$@\" >> '{calls}'\n{body}\n")
            program.chmod(0o755)
        calls.write_text("")
        return calls

    return say
