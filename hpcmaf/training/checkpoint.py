"""What lies in a job's folder of checkpoints, and which of it can be trusted.

    step-00000012/       what DeepSpeed wrote, and every process's random state
    step-00000012.json   marker, written last: of what job, how far, which files

A checkpoint without marker, or whose files are not as long as its marker says, was torn by a kill and is passed over.
What a file system merely fails to read now is no sign of that: it is tried again for some seconds, and then the job
fails and everything stays as it is. Imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from hpcmaf.errors import TRANSIENT
from hpcmaf.files.publish import file_sha256, remove, write_json
from hpcmaf.training.config import FinetuneJob

SCHEMA = "hpcmaf-checkpoint/1"
# A newer one that turns out unreadable leaves an older one to resume from.
KEPT = 2
# A file system that fails for a moment is given so many seconds to recover.
PATIENCE_S = 5.0
_STEP = re.compile(r"step-\d{8,}")
# Among what identifies a job: checkpoints are converted from one to another.
WORLD_SIZE = "world_size"

# What may differ between the job that wrote a checkpoint and the one that resumes from it: where files lie, and how a
# batch is cut up, which the loss does not notice. After running out of memory a job resumes in smaller pieces.
_INDIFFERENT = set(
    "dataset output checkpoints checkpoint_seconds checkpoint_steps micro_batch_size packing gradient_checkpointing "
    "threads nodes processes device loss_spike start_from thinking".split()
)
# A key that an older version did not know was as it is by default now.
_DEFAULTS = {name: item.default for name, item in FinetuneJob.model_fields.items() if not item.is_required()}

Found = TypeVar("Found")


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

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """By its marker; ``OSError`` where something cannot be read now, or is not there, other errors where torn."""
        value = json.loads(patiently(_marker(folder).read_bytes))
        if value.pop("schema") != SCHEMA:
            raise ValueError("of another version of hpcmaf")
        found = cls(folder, **value)
        for name, size in found.files.items():
            if patiently((folder / name).stat).st_size != size:
                raise ValueError(f"{name} is not {size} bytes long")
        return found

    @classmethod
    def publish(cls, folder: Path, losses: Sequence[float], seconds: float, identity: Mapping[str, Any]) -> None:
        """Declare the synced files in a folder whole, and drop all other checkpoints but the last before it."""
        files = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        found = cls(folder, len(losses), tuple(losses), seconds, identity, files)
        value = asdict(found) | {"schema": SCHEMA}
        del value["folder"]
        write_json(_marker(folder), value)
        _aside(folder).unlink(missing_ok=True)
        folders = sorted(path for path in folder.parent.iterdir() if _STEP.fullmatch(path.name))
        at = folders.index(folder)
        # What claims to be further than the job is torn or another job's.
        for other in folders[: max(0, at + 1 - KEPT)] + folders[at + 1 :]:
            # First what says that it is whole, so that no half of it passes for that.
            for declared in (_marker(other), _aside(other)):
                declared.unlink(missing_ok=True)
            remove(other)

    def set_aside(self) -> None:
        """Keep it, damaged, from being resumed from; it makes way when its step is reached again."""
        with suppress(FileNotFoundError):  # another process of the job was faster
            os.replace(_marker(self.folder), _aside(self.folder))


def identity(job: FinetuneJob, **processes: object) -> dict[str, Any]:
    """Everything that decides a job's result, as JSON has it; ``processes`` adds what only its processes know."""
    decides = job.model_dump(mode="json", exclude=_INDIFFERENT)
    return decides | {"dataset_sha256": file_sha256(Path(job.dataset))} | processes


def at_step(root: Path, step: int) -> Path:
    """Folder of the checkpoint after ``step`` steps."""
    return root / f"step-{step:08d}"


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
    for folder in sorted((root / name for name in names if _STEP.fullmatch(name)), reverse=True):
        try:
            yield Checkpoint.read(folder)
        except (FileNotFoundError, NotADirectoryError) as error:
            yield f"{folder} is torn ({error.filename}: {error.strerror})"
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            yield f"{folder} is torn ({error})"


def _marker(folder: Path) -> Path:
    """The file that says ``folder`` is whole."""
    return folder.with_suffix(".json")


def _aside(folder: Path) -> Path:
    """What that file is called where the folder has turned out to be damaged."""
    return folder.with_suffix(".json.aside")
