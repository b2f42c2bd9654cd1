"""The reason file of a chain that was stopped."""

from __future__ import annotations

import time
from typing import Any

from hpcmaf.errors import DataError
from hpcmaf.files.publish import Record, read_json, write_json
from hpcmaf.run.directory import RunDir


class _Stop(Record):
    reason: str
    stage: str = ""
    task: str = ""
    kind: str = ""
    log: str = ""


def write_stop(
    run: RunDir, reason: str, *, stage: str = "", task: str = "", kind: str = "stopped", log: str = ""
) -> None:
    """Leave the reason.

    Parameters
    ----------
    stage, task
        What stopped it; empty when no task did.
    kind
        Of cause, ``cancelled`` when the user stopped it, ``gate`` when a gate failed.
    log
        Where to read on.
    """
    value = {"reason": reason, "stage": stage, "task": task, "kind": kind, "log": log, "time": time.time()}
    write_json(run.stopped, value)


def read_stop(run: RunDir) -> dict[str, Any] | None:
    """Why the chain was stopped; ``None`` when it was not."""
    try:
        return read_json(run.stopped, _Stop)
    except FileNotFoundError:
        return None
    except DataError as error:
        return {"reason": str(error)}
