"""The frozen problems of a run, one JSON object per line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcmaf.errors import PlanChangedError
from hpcmaf.files.publish import read_bytes, write_text
from hpcmaf.tasks.problems import Problem


def describe(problems: Sequence[Problem]) -> dict[str, Any]:
    """What a plan notes of problems: their number, and the digest of their file."""
    return {"count": len(problems), "sha256": hashlib.sha256(_text(problems).encode()).hexdigest()}


def write(path: Path, problems: Sequence[Problem]) -> dict[str, Any]:
    """Publish problems; returns what the plan notes of them."""
    write_text(path, _text(problems))
    return describe(problems)


def _text(problems: Sequence[Problem]) -> str:
    return "".join(
        json.dumps({"id": p.id, "question": p.question, "gold": p.gold, "meta": dict(p.meta)}) + "\n" for p in problems
    )


def read(path: Path, sha256: str) -> list[Problem]:
    """Read problems.

    Raises
    ------
    PlanChangedError
        The file is missing or has another digest.
    """
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        data = b""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise PlanChangedError(f"{path}: not the problems this run was planned with; start a new run with --run NAME")
    return [Problem(**json.loads(line)) for line in data.splitlines()]
