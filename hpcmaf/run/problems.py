"""The frozen problems of a run, one JSON object per line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from hpcmaf.tasks.problems import Problem


def describe(problems: Sequence[Problem]) -> dict[str, Any]:
    """What a plan notes of problems: their number, and the digest of their file."""
    return {"count": len(problems), "sha256": hashlib.sha256(to_lines(problems).encode()).hexdigest()}


def to_lines(problems: Sequence[Problem]) -> str:
    """The content of a file of problems."""
    return "".join(
        json.dumps({"id": p.id, "question": p.question, "gold": p.gold, "meta": dict(p.meta)}) + "\n" for p in problems
    )
