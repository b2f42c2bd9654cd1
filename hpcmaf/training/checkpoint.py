"""What lies in a job's folder of checkpoints, and which of it can be trusted.

    step-00000012/       what DeepSpeed wrote, and every process's random state
    step-00000012.json   marker, written last: of what job, how far, which files

A checkpoint without marker, or whose files are not as long as its marker says,
was torn by a kill and is passed over. What a file system merely fails to read
now is no sign of that: it is tried again for some seconds, and then the job
fails and everything stays as it is. Imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from hpcmaf.errors import TRANSIENT
from hpcmaf.files.publish import file_sha256, remove, write_json
from hpcmaf.training.spec import FinetuneJob

SCHEMA = "hpcmaf-checkpoint/1"
# A newer one that turns out unreadable leaves an older one to go on from.
KEPT = 2
# A file system that fails for a moment is given so many seconds to recover.
PATIENCE_S = 5.0
_STEP = re.compile(r"step-\d{8,}")
# Among what identifies a job: checkpoints are converted from one to another.
WORLD_SIZE = "world_size"

# What may differ between the job that wrote a checkpoint and the one that goes
# on from it: where files lie, and how a batch is cut up, which the loss does
# not notice. After running out of memory the same job goes on in smaller pieces.
_INDIFFERENT = frozenset(
    "dataset output checkpoints checkpoint_seconds checkpoint_steps micro_batch_size packing gradient_checkpointing "
    "threads nodes processes device loss_spike wandb".split()
)

Found = TypeVar("Found")

_DEFAULTS = {item.name: item.default for item in fields(FinetuneJob) if item.default is not MISSING}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One whole checkpoint, in ``folder``.

    Attributes
    ----------
    step, losses
        Optimiser steps done, and each one's loss.
    seconds
        Wall time that went into them, start-up included.
    identity
        See :func:`identity`.
    files
        Bytes of each file, by its path in ``folder``.
    """

    folder: Path
    step: int
    losses: tuple[float, ...]
    seconds: float
    identity: Mapping[str, Any]
    files: Mapping[str, int]

    def publish(self, temporary: Path) -> None:
        """Put written and synced files in place, declare them whole, and drop all but the last ``KEPT``."""
        drop(self.folder)
        temporary.replace(self.folder)
        write_json(
            marker(self.folder),
            {key: value for key, value in asdict(self).items() if key != "folder"} | {"schema": SCHEMA},
        )
        steps = sorted(name for name in os.listdir(self.folder.parent) if _STEP.fullmatch(name))
        others = [self.folder.with_name(name) for name in steps if name != self.folder.name]
        before = [path for path in others if path.name < self.folder.name]
        for old in before[: 1 - KEPT]:
            drop(old)
        # What claims to be further than the job is torn or another job's.
        for other in others[len(before) :]:
            drop(other)


def identity(job: FinetuneJob, **place: object) -> dict[str, Any]:
    """Everything that decides a job's result; ``place`` adds what only its processes know."""
    decides = {key: value for key, value in asdict(job).items() if key not in _INDIFFERENT}
    decides["dataset_sha256"] = file_sha256(Path(job.dataset))
    # As it reads back from a marker: tuples are lists there.
    return json.loads(json.dumps(decides | place))


def at_step(root: Path, step: int) -> Path:
    """Folder of the checkpoint after ``step`` steps."""
    return root / f"step-{step:08d}"


def marker(folder: Path) -> Path:
    """The file that says ``folder`` is whole."""
    return folder.with_name(f"{folder.name}.json")


def set_aside(folder: Path) -> None:
    """Keep a damaged checkpoint from being resumed from; it makes way when its step is reached again."""
    try:
        os.replace(marker(folder), aside(folder))
    except FileNotFoundError:
        pass  # another process of the job was faster


def aside(folder: Path) -> Path:
    """What the marker of a damaged checkpoint is renamed to."""
    return folder.with_name(f"{folder.name}.json.aside")


def drop(folder: Path) -> None:
    """Remove a checkpoint; first its marker, so that no half of it passes for whole.

    A folder that will not go entirely, as where NFS keeps files that somebody
    still has open, is out of the way under another name, and swept later.
    """
    for name in (marker(folder), aside(folder)):
        name.unlink(missing_ok=True)
    retired = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        os.replace(folder, retired)
    except FileNotFoundError:
        return
    remove(retired)


def patiently(call: Callable[[], Found]) -> Found:
    """What ``call`` returns, which is called again for some seconds while the file system fails it for the moment."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except OSError as error:
            if error.errno not in TRANSIENT or time.monotonic() > end:
                raise
        time.sleep(0.2)


def newest(root: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The last whole checkpoint of this very job, whatever its number of processes was; others are named in the log.

    Raises ``OSError`` where the folder, or what lies in it, cannot be read now.
    """
    for found in _all(root):
        if isinstance(found, str):
            print(f"checkpoint ignored: {found}", flush=True)
            continue
        keys = sorted((identity.keys() | found.identity.keys()) - {WORLD_SIZE})
        # A key that an older version did not know was as it is by default now.
        earlier = _DEFAULTS | found.identity
        differs = next((key for key in keys if identity.get(key) != earlier.get(key)), None)
        if differs is None:
            return found
        there, here = earlier.get(differs), identity.get(differs)
        print(f"checkpoint ignored: {found.folder} is another job's ({differs} {there!r}, not {here!r})", flush=True)
    return None


def checkpoint_step(root: Path) -> int:
    """Steps that a killed job need not repeat: those of its last whole checkpoint, or 0; raises as :func:`newest`."""
    return next((found.step for found in _all(root) if isinstance(found, Checkpoint)), 0)


def _all(root: Path) -> Iterator[Checkpoint | str]:
    """Whole checkpoints, the newest first; for a torn one, what is wrong with it."""
    try:
        # Not a glob, which takes a folder that cannot be listed for an empty one.
        names = patiently(lambda: os.listdir(root))
    except FileNotFoundError:
        return
    for name in sorted((name for name in names if _STEP.fullmatch(name)), reverse=True):
        folder = root / name
        try:
            value = json.loads(patiently(marker(folder).read_bytes))
            if value.pop("schema") != SCHEMA:
                raise ValueError("of another version of hpcmaf")
            found = Checkpoint(folder, **value)
            for name, size in found.files.items():
                if patiently((folder / name).stat).st_size != size:
                    raise ValueError(f"{name} is not {size} bytes long")
        except (FileNotFoundError, NotADirectoryError) as error:
            yield f"{folder} is torn ({error.filename}: {error.strerror})"
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            yield f"{folder} is torn ({error})"
        else:
            yield found
