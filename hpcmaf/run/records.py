"""What the JSON files of a run hold."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated

from pydantic import AfterValidator, Field

from hpcmaf.debate.health import Health
from hpcmaf.files.publish import Amount, Count, Record


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


class _Chosen(Record):
    kept: Count
    kept_positives: Count | None = None
    kept_negatives: Count | None = None
    realised_w: Amount | None = None
    # Not in files of earlier versions.
    cut_off: Count | None = None
    # Of those that have been finetuned.
    dropped_too_long: Count | None = None
    samples: Count | None = None


class Selection(Record):
    """Of ``selection.json``: what each agent is to learn from."""

    health: Health | None = None
    datasets: dict[str, _Chosen]
    agreement: list[Amount] = []


class Trained(Record):
    """Of an agent's ``training.json``."""

    samples: Count
    dropped_too_long: Count


class Ended(Record):
    """Of ``ended.json``: the last iteration, the one to use, and what has rung the alarm, if it was that."""

    iteration: Annotated[int, Field(ge=1)]
    kept: Count
    alarm: list[str]
