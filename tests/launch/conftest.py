"""Slurm's client commands, played from texts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

SlurmSays = Callable[..., Path]


@pytest.fixture
def slurm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmSays:
    """Puts programs into the PATH that print given texts, fail with given codes, or are given scripts.

    Returns the file with a line for every call of the first two kinds.
    """
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def say(**texts: str | int) -> Path:
        for name, text in texts.items():
            program, answer = folder / name, folder / f"{name}.txt"
            if isinstance(text, int):
                body = f"echo '{name}: error: Unable to contact slurm controller' >&2; exit {text}"
            else:
                answer.write_text(text)
                body = f"cat '{answer}'"
            script = f"#!/bin/sh\necho {name} \"$@\" >> '{calls}'\n{body}\n"
            program.write_text(text if str(text).startswith("#!") else script)
            program.chmod(0o755)
        calls.write_text("")
        return calls

    return say
