"""What the marker of a finished task holds, and what a line of its ledger does."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated

from pydantic import AfterValidator

from hpcmaf.files.publish import Amount, Record


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


class Marker(Record):
    """What is known of a finished task: the files that it published, with their digests, and its ledger."""

    outputs: dict[Annotated[str, AfterValidator(_inside)], str]
    ledger: list[_TimedRow]
