"""The state of a run: what is done, what runs, what went wrong, what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hpcmaf.config.profile import Profile, load_profile
from hpcmaf.errors import ChainStoppedError, DataError, SlurmError
from hpcmaf.evaluation.measures import MEASURES, declared
from hpcmaf.files.publish import Record, read_json
from hpcmaf.launch.estimate import Estimate, estimate
from hpcmaf.launch.slurm.refusals import lifting
from hpcmaf.launch.survey import Failure, Survey, survey
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage
from hpcmaf.selection.sources import scarce, scarce_line

SCHEMA = "hpcmaf-status/1"

_COUNTS = ("done", "running", "pending", "failed", "waiting", "total")

# A run that goes on or is done is well; see errors.py for the others.
_EXIT_CODES = {
    "stopped": ChainStoppedError.exit_code,
    "stalled": ChainStoppedError.exit_code,
    "unknown": SlurmError.exit_code,
}


@dataclass(frozen=True, slots=True)
class StageStatus:
    """Counts of one stage's tasks; they add up to ``total``.

    Attributes
    ----------
    pending
        In Slurm's queue.
    failed
        Neither queued nor running again.
    waiting
        Not submitted yet, or cancelled with the rest of the chain.
    seconds_left
        ``None`` where nothing tells, 0 when it is done.
    """

    stage: Stage
    done: int
    running: int
    pending: int
    failed: int
    total: int
    seconds_left: float | None

    @property
    def waiting(self) -> int:
        """What is left over."""
        return max(0, self.total - self.done - self.running - self.pending - self.failed)


@dataclass(frozen=True, slots=True)
class Status:
    """A run at one moment.

    Attributes
    ----------
    accuracy
        Of each evaluated iteration: ``{"iteration"}`` and its measures by
        name, such as ``answer`` and ``vote@M``, as ``{"value", "se"}``.
    next
        The command to type now; empty when there is only waiting to do.
    """

    run: RunDir
    launcher: str
    iterations: int
    survey: Survey
    estimate: Estimate
    stages: tuple[StageStatus, ...]
    accuracy: tuple[Mapping[str, Any], ...]
    next: str

    @property
    def exit_code(self) -> int:
        """0 while the run is well, 15 when it was stopped or has stalled, 13 when Slurm does not answer."""
        return _EXIT_CODES.get(self.survey.state, 0)

    @property
    def over(self) -> bool:
        """Whether waiting changes nothing any more."""
        return self.survey.state in {"done", "stopped", "stalled"}

    def count(self, name: str) -> int:
        """Sum of one of the counts over all stages."""
        return sum(getattr(stage, name) for stage in self.stages)

    def failures(self) -> list[tuple[Failure, int]]:
        """Failures, those of a stage with one cause as one, and how many tasks each stands for."""
        groups: dict[tuple[str, str], list[Failure]] = {}
        for failure in self.survey.failures.values():
            # The node and the numbers in a message differ from task to task; the words do not.
            words = "".join(c for c in failure.text.replace(failure.task, "") if not c.isdigit())
            groups.setdefault((failure.stage, words), []).append(failure)
        return [(members[0], len(members)) for members in groups.values()]

    def to_json(self) -> dict[str, Any]:
        """The status as JSON values.

        ``run``, ``launcher``, ``iterations``; ``state`` (done, running,
        queued, stopped, stalled, unknown), ``why``, ``exit_code``; ``tasks``
        with the counts of all stages; ``seconds_left`` and
        ``seconds_left_whole`` (false: at least so many); ``stages``, each
        with ``id``, ``iteration``, ``kind``, the counts and ``seconds_left``;
        ``failures``, each with ``stage``, ``task``, ``kind``, ``text``,
        ``log``, ``node``, ``again`` and ``tasks`` (how many it stands for);
        ``stopped`` (the reason file, or null); ``gates`` (job ids);
        ``accuracy`` per iteration; ``notes``; ``next`` (a command, or empty).
        """
        survey, left = self.survey, self.estimate
        return {
            "schema": SCHEMA,
            "run": str(self.run.root),
            "launcher": self.launcher,
            "iterations": self.iterations,
            "state": survey.state,
            "why": survey.why,
            "exit_code": self.exit_code,
            "tasks": {name: self.count(name) for name in _COUNTS},
            "seconds_left": left.seconds,
            "seconds_left_whole": left.whole,
            "stages": [
                {"id": row.stage.id, "iteration": row.stage.iteration, "kind": row.stage.kind}
                | {name: getattr(row, name) for name in _COUNTS}
                | {"seconds_left": row.seconds_left}
                for row in self.stages
            ],
            "failures": [asdict(failure) | {"tasks": count} for failure, count in self.failures()],
            "stopped": survey.stopped,
            "gates": survey.gates,
            "accuracy": list(self.accuracy),
            "notes": survey.notes,
            "next": self.next,
        }


def look(run: RunDir) -> Status:
    """See how a run is; writes nothing.

    Raises
    ------
    DataError
        It is not a run directory.
    PlanChangedError
        Its plan was edited.
    ConfigError
        Its profile is missing or damaged.
    """
    plan = run.load_plan()
    profile = load_profile(str(run.profile))
    found = survey(run, plan, profile)
    found.notes.extend(filter(None, (_scarce(run, stage) for stage in plan.stages if stage.kind == "finetune")))
    left = estimate(run, plan, profile, found)
    stages = tuple(_stage(stage, found, left) for stage in plan.stages)
    accuracy = tuple(filter(None, (_accuracy(run, stage) for stage in plan.stages if stage.kind == "score")))
    return Status(
        run, profile.launcher, plan.iterations, found, left, stages, accuracy, _next(run, plan, profile, found)
    )


def _stage(stage: Stage, found: Survey, left: Estimate) -> StageStatus:
    failed = sum(stage.id == id for id, _ in found.failures)
    done = len(found.done[stage.id])
    return StageStatus(
        stage,
        done,
        len(found.running.get(stage.id, ())),
        len(found.pending.get(stage.id, ())),
        failed,
        len(stage.tasks),
        0.0 if done >= len(stage.tasks) else left.stages.get(stage.id),
    )


def _accuracy(run: RunDir, stage: Stage) -> dict[str, Any] | None:
    """Figures of an evaluated iteration; 'hpcmaf aggregate' says what is wrong with a damaged file."""
    try:
        measured = declared(read_json(run.metrics(stage.iteration), Record))["accuracy"]
        figures = {
            name: {key: float(measured[name][key]) for key in ("value", "se")} for name in MEASURES if name in measured
        }
    except (OSError, DataError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
    return {"iteration": stage.iteration} | figures if figures else None


def _scarce(run: RunDir, stage: Stage) -> str | None:
    """A warning of agents that learn from next to nothing."""
    try:
        datasets = run.learned(stage.iteration)["datasets"]
    except (OSError, DataError):
        return None
    return scarce_line(stage.iteration, scarce(datasets, [agent for agent in stage.tasks if agent in datasets]))


def _next(run: RunDir, plan: Plan, profile: Profile, found: Survey) -> str:
    root = shlex.quote(str(run.root))
    again = f"hpcmaf submit --recipe {shlex.quote(str(run.recipe))} --profile {shlex.quote(str(run.profile))}"
    again += f" --run {root}"
    if found.state == "done":
        return "" if run.report.is_dir() or found.gates else f"hpcmaf aggregate {root}"
    if found.state == "unknown":
        return "hpcmaf doctor --run " + root
    if found.state in {"running", "queued"}:
        return f"hpcmaf logs {root} --failed" if found.failures else ""
    if found.refusal and not found.failures:
        what = again if found.state == "stalled" else f"hpcmaf retry {root}"
        return f"{lifting(found.refusal)}; then {what}"
    if found.failures:
        return f"hpcmaf logs {root} --failed; then " + (
            f"hpcmaf retry {root}" if profile.launcher == "slurm" else again
        )
    if found.stopped is not None and found.stopped.get("kind") == "gate":
        return f"hpcmaf logs {root} --stage gate; then hpcmaf retry {root}"
    return f"hpcmaf retry {root}" if profile.launcher == "slurm" and found.state == "stopped" else again
