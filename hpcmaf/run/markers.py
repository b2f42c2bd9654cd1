"""What a finished task says of itself: the files it published, with their digests, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any

from pydantic import AfterValidator

from hpcmaf.errors import DataError
from hpcmaf.files.publish import Amount, Record, file_sha256, read_json, write_json
from hpcmaf.run.plan import Stage


class LedgerRow(Record):
    """What a task spent; a figure that does not apply to it may be absent or null."""

    stage: str | None = None
    agent: str | None = None
    calls: Amount | None = None
    prompt_tokens: Amount | None = None
    completion_tokens: Amount | None = None
    training_tokens: Amount | None = None
    wall_seconds: Amount | None = None
    gpu_seconds: Amount | None = None
    peak_memory_bytes: Amount | None = None


class _TimedRow(LedgerRow):
    wall_seconds: Amount


def _inside(name: str) -> str:
    if not name.isprintable() or name.startswith("/") or ".." in PurePath(name).parts:
        raise ValueError(f"{name!r} is no file of a run")
    return name


class _Marker(Record):
    outputs: dict[Annotated[str, AfterValidator(_inside)], str]
    ledger: list[_TimedRow]


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
        return read_json(path, _Marker)
    except DataError as error:
        raise DataError(f"{path}: a damaged marker; delete it, and the same command does {task} again") from error
