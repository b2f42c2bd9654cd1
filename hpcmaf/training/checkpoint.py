"""What lies in a job's folder of checkpoints, and which of it can be trusted.

    step-00000012/       what DeepSpeed wrote, and every process's random state
    step-00000012.json   marker, written last: of what job, how far, which files

A checkpoint without marker, or whose files are not as long as its marker says,
was torn by a kill and is passed over. Imports nothing heavy.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hpcmaf.publish import file_sha256, write_json
from hpcmaf.training.spec import FinetuneJob

SCHEMA = "hpcmaf-checkpoint/1"
# A newer one that turns out unreadable leaves an older one to go on from.
KEPT = 2
# Among what identifies a job: checkpoints are converted from one to another.
WORLD_SIZE = "world_size"

# What may differ between the job that wrote a checkpoint and the one that goes
# on from it: where files lie, and how a batch is cut up, which the loss does
# not notice. After running out of memory the same job goes on in smaller pieces.
_INDIFFERENT = frozenset(
    {"dataset", "output", "checkpoints", "checkpoint_seconds", "checkpoint_steps"}
    | {
        "micro_batch_size",
        "packing",
        "gradient_checkpointing",
        "threads",
        "nodes",
        "processes",
        "device",
        "loss_spike",
        "wandb",
    }
)

_DEFAULTS = {item.name: item.default for item in fields(FinetuneJob) if item.default is not MISSING}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One whole checkpoint.

    Attributes
    ----------
    folder
        Where it lies.
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
        others = [path for path in sorted(self.folder.parent.glob("step-*/")) if path.name != self.folder.name]
        before = [path for path in others if path.name < self.folder.name]
        for old in before[: 1 - KEPT]:
            drop(old)
        # What claims to be further than the job is torn or another job's.
        for foreign in others[len(before) :]:
            drop(foreign)


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


def drop(folder: Path) -> None:
    """Remove a checkpoint; first its marker, so that no half of it passes for whole."""
    marker(folder).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def newest(root: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The last whole checkpoint of this very job, whatever its number of processes was; others are named in the log."""
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
    """Steps that a killed job need not repeat: those of its last whole checkpoint, or 0."""
    return next((found.step for found in _all(root) if isinstance(found, Checkpoint)), 0)


def _all(root: Path) -> Iterator[Checkpoint | str]:
    """Whole checkpoints, the newest first; for a torn one, what is wrong with it."""
    for folder in sorted(root.glob("step-*/"), reverse=True):
        folder = root / folder.name
        try:
            value = json.loads(marker(folder).read_bytes())
            if value.pop("schema") != SCHEMA:
                raise ValueError("of another version of hpcmaf")
            found = Checkpoint(folder, **value)
            for name, size in found.files.items():
                if (folder / name).stat().st_size != size:
                    raise ValueError(f"{name} is not {size} bytes long")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            yield f"{folder} is torn ({error})"
        else:
            yield found
