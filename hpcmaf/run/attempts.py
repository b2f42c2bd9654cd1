"""Attempts at a task, kept apart: where it ran, where its log is, why it failed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from hpcmaf.errors import DataError
from hpcmaf.files.publish import Record, read_json, write_json

_FACTS, _CAUSE = "attempt.json", "cause.json"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt.

    Attributes
    ----------
    facts
        What a cluster's job wrote when it began: submission, job, node, log, and how far the task was (``progress``).
    cause
        Why it failed: type, message, kind (:data:`hpcmaf.errors.FailureKind`),
        errno, node, traceback. ``None`` when it wrote none (it was killed, or runs).
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
        Written into it.
    """
    task.mkdir(parents=True, exist_ok=True)
    last = max((int(path.name) for path in task.iterdir() if path.name.isdecimal()), default=0)
    for number in count(last + 1):
        folder = task / f"{number:04d}"
        with suppress(FileExistsError):  # another copy of the task began at the same moment
            folder.mkdir()
            break
    if facts is not None:
        write_json(folder / _FACTS, dict(facts))
    return folder


def all_attempts(task: Path) -> list[Attempt]:
    """All attempts at a task, the first one first."""
    try:
        names = sorted(path.name for path in task.iterdir() if path.name.isdecimal())
    except FileNotFoundError:
        return []
    return [read(task / name) for name in names]


def read(folder: Path) -> Attempt:
    """What an attempt has left."""
    facts, cause = (_read(folder / name) for name in (_FACTS, _CAUSE))
    return Attempt(folder, facts or {}, cause)


def leave_cause(folder: Path, cause: Mapping[str, Any]) -> None:
    """Write down why an attempt failed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _CAUSE, dict(cause))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path, Record)
    except (FileNotFoundError, DataError):
        return None
