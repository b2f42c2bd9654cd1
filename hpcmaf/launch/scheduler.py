"""What moves a run on needs of whoever runs its jobs: this machine, Slurm, or a recording of what Slurm would get."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpcmaf.errors import DataError
from hpcmaf.files.publish import Record, read_json, write_json
from hpcmaf.launch.slurm.submissions import Cause, Submissions
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage, TaskKey


@dataclass
class States:
    """What is done, what is queued or running, and what is missing.

    Attributes
    ----------
    done
        Finished tasks by stage id.
    in_flight
        Jobs of tasks that are queued or running, by ``(stage id, task)``.
    """

    plan: Plan
    done: Mapping[str, set[str]]
    in_flight: dict[TaskKey, Any] = field(default_factory=dict)

    def stage_done(self, stage: Stage) -> bool:
        """Whether all of a stage's tasks are finished."""
        return len(self.done[stage.id]) >= len(stage.tasks)

    def missing(self, stage: Stage) -> list[str]:
        """A stage's tasks that are neither done nor queued nor running."""
        done = self.done[stage.id]
        return [task for task in stage.tasks if task not in done and (stage.id, task) not in self.in_flight]

    def unfinished(self) -> list[Stage]:
        """Stages with anything left, in the plan's order."""
        return [stage for stage in self.plan.stages if not self.stage_done(stage)]

    def ready(self) -> list[Stage]:
        """Unfinished stages whose inputs are there; what the next iteration waits for comes before evaluation."""
        done = {stage.id for stage in self.plan.stages if self.stage_done(stage)}
        found = [stage for stage in self.unfinished() if done.issuperset(stage.after)]
        return sorted(found, key=lambda stage: stage.spec.evaluates)


class Stop(Record):
    """Why a run goes no further.

    Attributes
    ----------
    stage, task
        What stopped it; empty when no task did.
    kind
        Of cause, ``cancelled`` when the user stopped it, ``gate`` when a gate failed.
    log
        Where to read on.
    """

    reason: str
    stage: str = ""
    task: str = ""
    kind: str = "stopped"
    log: str = ""


def write_stop(run: RunDir, stop: Stop) -> None:
    """Leave the reason."""
    write_json(run.stopped, stop.model_dump() | {"time": time.time()})


def read_stop(run: RunDir) -> Stop | None:
    """Why the chain was stopped; ``None`` when it was not."""
    try:
        return Stop.model_validate(read_json(run.stopped, Stop))
    except FileNotFoundError:
        return None
    except DataError as error:
        return Stop(reason=str(error))


class Scheduler(ABC):
    """Runs the jobs of one run.

    Attributes
    ----------
    log
        What was submitted for the run, and what became of it.
    """

    run: RunDir
    plan: Plan
    log: Submissions

    @abstractmethod
    def states(self) -> States:
        """One look: markers, and what it has in hand."""

    @abstractmethod
    def submit(self, stage: Stage, tasks: Sequence[str], *, halvings: int = 0, exclude: Sequence[str] = ()) -> None:
        """Take tasks of a stage, as many as there is room for; the rest is left to a later look.

        Parameters
        ----------
        halvings
            How often batches are halved, because memory ran out before.
        exclude
            Nodes to avoid.
        """

    @abstractmethod
    def causes(self, keys: Sequence[TaskKey]) -> dict[TaskKey, Cause]:
        """Why tasks that were submitted and are in flight no more are not done; those that are done are left out."""

    @abstractmethod
    def cancel(self, stop: Stop | None = None) -> None:
        """End what runs; with a reason that will not change, submit nothing more and end only what waits."""

    def stopped(self) -> bool:
        """Whether nothing more is to be submitted."""
        return self.run.stopped.exists()

    def settle(self, states: States) -> None:
        """Called when all that is ready is submitted."""

    @abstractmethod
    def say(self, line: str) -> None:
        """Tell whoever watches."""
