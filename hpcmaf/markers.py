"""What a finished task says of itself: the files it published, with their digests, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcmaf.errors import DataError
from hpcmaf.plan import Stage
from hpcmaf.publish import file_sha256, write_json


def write(
    path: Path, root: Path, stage: Stage, task: str, outputs: Sequence[Path], ledger: Sequence[Mapping[str, Any]]
) -> None:
    """Publish a marker; ``outputs`` are files and folders under ``root``."""
    files = {}
    for output in outputs:
        for file in sorted(output.rglob("*")) if output.is_dir() else [output]:
            if file.is_file():
                files[str(file.relative_to(root))] = file_sha256(file)
    value = {"schema": "hpcmaf-marker/1", "stage": stage.id, "task": task, "outputs": files, "ledger": list(ledger)}
    write_json(path, value)


def read(path: Path, task: str) -> dict[str, Any]:
    """Read the marker of ``task``.

    Raises
    ------
    DataError
        It is torn, or was edited.
    """
    try:
        value = json.loads(path.read_bytes())
        intact = isinstance(value["outputs"], dict) and all("wall_seconds" in row for row in value["ledger"])
    except (ValueError, KeyError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise DataError(f"{path}: a damaged marker; delete it, and the same command does {task} again")
    return value
