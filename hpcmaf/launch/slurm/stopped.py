"""The reason file of a chain that was stopped."""

from __future__ import annotations

import json
import time
from typing import Any

from hpcmaf.publish import write_json
from hpcmaf.rundir import RunDir


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
        value = json.loads(run.stopped.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        value = None
    return value if isinstance(value, dict) and "reason" in value else {"reason": f"{run.stopped} is unreadable"}
