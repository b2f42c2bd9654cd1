"""Attempts at a task, kept apart: where it ran, where its log is, why it failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcmaf.publish import write_json

_FACTS, _CAUSE = "attempt.json", "cause.json"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt.

    Attributes
    ----------
    facts
        What a cluster's job wrote when it began: submission, job, node, log,
        and how far the task was (``progress``).
    cause
        Why it failed: type, message, expected, exit_code, pid, traceback;
        ``None`` when it left no word (it was killed, or runs).
    """

    folder: Path
    facts: Mapping[str, Any]
    cause: Mapping[str, Any] | None


def begin(task: Path, facts: Mapping[str, Any] | None = None) -> Path:
    """Make the folder of a task's next attempt.

    Parameters
    ----------
    task
        The folder of its attempts.
    facts
        To be kept in it.
    """
    task.mkdir(parents=True, exist_ok=True)
    number = max((int(path.name) for path in task.iterdir() if path.name.isdigit()), default=0)
    while True:
        number += 1
        folder = task / f"{number:04d}"
        try:
            folder.mkdir()
            break
        except FileExistsError:
            continue  # another copy of the task began at the same moment
    if facts is not None:
        write_json(folder / _FACTS, dict(facts))
    return folder


def all_attempts(task: Path) -> list[Attempt]:
    """All attempts at a task, the first one first."""
    try:
        names = sorted(path.name for path in task.iterdir() if path.name.isdigit())
    except FileNotFoundError:
        return []
    return [read(task / name) for name in names]


def read(folder: Path) -> Attempt:
    """What an attempt has left."""
    return Attempt(folder, _read(folder / _FACTS) or {}, _read(folder / _CAUSE))


def leave_cause(folder: Path, cause: Mapping[str, Any]) -> None:
    """Write down why an attempt failed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _CAUSE, dict(cause))


def read_cause(folder: Path) -> Mapping[str, Any] | None:
    """Why an attempt failed; ``None`` when it left no word (it was killed)."""
    return _read(folder / _CAUSE)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None
