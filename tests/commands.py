"""The program as people start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
from click.testing import CliRunner

from hpcmaf.cli import cli
from hpcmaf.files.publish import file_sha256
from hpcmaf.run.directory import RunDir

HPCMAF = (sys.executable, "-m", "hpcmaf")


def hpcmaf(*words: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a command that has to succeed; returns what it says on both streams."""
    done = subprocess.run(
        [*HPCMAF, *map(str, words)], capture_output=True, text=True, timeout=900, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def invoke(*words: str | Path) -> str:
    """The same in this process, for what starts no job."""
    result = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def setting(*overrides: str, option: str = "--set") -> list[str]:
    """Words of the command line that override keys of a recipe, or with ``--set-profile`` of a profile."""
    return [word for override in overrides for word in (option, override)]


def contents(run: RunDir) -> dict[str, str]:
    """Digests of what debates, selection and finetuning have published, and the scores; times aside."""
    found = [*run.root.glob("it*/*.h5"), *run.root.glob("it*/data/*"), *run.root.glob("it*/agents/*/*.safetensors")]
    values = {str(path.relative_to(run.root)): file_sha256(path) for path in found}
    for path in run.root.glob("it*/metrics.json"):
        metrics = json.loads(path.read_text())
        values[str(path.relative_to(run.root))] = json.dumps([metrics["accuracy"], metrics["scores"]])
    return values


def processes(*words: str, environment: bool = False) -> list[int]:
    """Ids of this machine's other processes whose command line, or environment, holds all these words."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"] if environment else ["cmdline"]):
        text = "\0".join([*(process.info["cmdline"] or ()), *(process.info.get("environ") or {}).values()])
        if process.pid != os.getpid() and all(word in text for word in words):
            found.append(process.pid)
    return found
