"""Taking over what another run of the study has made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hpcmaf.errors import DataError, RunBusyError
from hpcmaf.files.publish import atomic_path, file_sha256, write_json
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage, TaskKey
from hpcmaf.study.keys import task_keys


@dataclass(frozen=True)
class Planned:
    """A run with its plan."""

    run: RunDir
    plan: Plan

    @cached_property
    def keys(self) -> Mapping[TaskKey, str]:
        """Keys of its tasks."""
        return task_keys(self.plan)


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A task that another run does, or has done."""

    stage: Stage
    task: str
    owner: Planned


def shared_tasks(planned: Planned, earlier: Sequence[Planned]) -> list[Borrowed]:
    """Tasks that the first of some earlier runs does as well, in the order of the plan."""
    owners = {key: other for other in reversed(earlier) for key in other.keys.values()}
    mine = ((stage, task, planned.keys.get((stage.id, task))) for stage in planned.plan.stages for task in stage.tasks)
    return [Borrowed(stage, task, owners[key]) for stage, task, key in mine if key in owners]


def adopt(borrowed: Borrowed, run: RunDir) -> bool:
    """Give a run another's outputs of a task, with a marker that says whose they are.

    Files are linked where the file system lets, else copied; either way they
    are compared with their digests. Nothing is written in place, so a link
    can only change by damage, which ``hpcmaf verify`` finds in both.

    Returns
    -------
    bool
        Whether the run has them now; the owner may not be done, or may have
        lost them since.

    Raises
    ------
    DataError
        A file of the owner is damaged.
    """
    stage, task, source = borrowed.stage, borrowed.task, borrowed.owner.run
    if run.done(stage, task):
        return True
    if not source.done(stage, task) or source.missing(stage, task):
        return False
    try:
        with run.claim(stage, task):
            marker = source.read_marker(stage, task)
            for name, digest in marker["outputs"].items():
                _take(source.root / name, run.root / name, digest)
            taken = {"adopted": {"run": source.root.name, "key": borrowed.owner.keys[stage.id, task]}}
            # Adopted at second hand, it still names who has computed it.
            write_json(run.marker(stage, task), taken | marker)
    except RunBusyError:
        return False  # it is being computed here; so be it
    return True


def _take(source: Path, target: Path, digest: str) -> None:
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, temporary)
        if file_sha256(temporary) != digest:
            raise DataError(f"{source}: damaged (its marker has another sha256); delete it and run the study again")
