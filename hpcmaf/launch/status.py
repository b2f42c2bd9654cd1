"""The state of a run: what is done, what runs, what went wrong, what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hpcmaf.config.profile import Profile, load_profile
from hpcmaf.debate.health import evaluated, health_line, health_warnings, selected
from hpcmaf.errors import ChainStoppedError, DataError, SlurmError, one_line
from hpcmaf.evaluation.alarm import alarm_line, readings
from hpcmaf.evaluation.measures import MEASURES, declared
from hpcmaf.files.publish import Record, read_json
from hpcmaf.launch.progress import Estimate, estimate, read_progress
from hpcmaf.launch.slurm.refusals import lifting
from hpcmaf.launch.survey import Survey, survey
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA = "hpcmaf-status/1"

_COUNTS = ("done", "running", "pending", "failed", "waiting", "total")
_MOST_RUNNING, _MOST_FAILURES = 4, 8


@dataclass(frozen=True, slots=True)
class Status:
    """A run at one moment.

    Attributes
    ----------
    stages
        Of each stage ``id``, ``iteration``, ``kind`` and counts of its
        tasks. ``pending`` tasks are in Slurm's queue, ``failed`` ones neither
        queued nor running again, ``waiting`` ones not submitted yet, or
        cancelled with the rest of the chain; with ``done`` and ``running``
        they add up to ``total``.
    accuracy
        Of each evaluated iteration: ``{"iteration"}`` and its measures by
        name, such as ``answer`` and ``vote@M``, as ``{"value", "se"}``.
    health
        Of each stage that has debates, such as ``iteration 1`` and
        ``iteration 1, evaluation``, what they came to.
    next
        The command to type now; empty when there is only waiting to do.
    """

    run: RunDir
    plan: Plan
    launcher: str
    survey: Survey
    estimate: Estimate
    stages: tuple[Mapping[str, Any], ...]
    accuracy: tuple[Mapping[str, Any], ...]
    health: Mapping[str, Mapping[str, Any]]
    next: str

    @property
    def exit_code(self) -> int:
        """0 while the run is well, 15 when it was stopped or has stalled, 13 when Slurm does not answer."""
        if self.survey.state in {"stopped", "stalled"}:
            return ChainStoppedError.exit_code
        return SlurmError.exit_code if self.survey.state == "unknown" and self.launcher == "slurm" else 0

    def count(self, name: str) -> int:
        """Sum of one of the counts over all stages."""
        return sum(stage[name] for stage in self.stages)

    def failures(self) -> list[dict[str, Any]]:
        """Failures, those of a stage with one cause as one: ``tasks`` is how many it stands for."""
        groups: dict[tuple[str, str], dict[str, Any]] = {}
        for (stage, task), cause in self.survey.failures.items():
            # The node and the numbers in a message differ from task to task; the words do not.
            words = "".join(c for c in cause.text.replace(task, "") if not c.isdigit())
            own = {"stage": stage, "task": task, "again": (stage, task) in self.survey.again, "tasks": 0}
            groups.setdefault((stage, words), own | asdict(cause))["tasks"] += 1
        return list(groups.values())

    def to_json(self) -> dict[str, Any]:
        """The status as JSON values.

        ``run``, ``launcher``, ``iterations``; ``state`` (done, running,
        queued, stopped, stalled, unknown), ``why``, ``exit_code``; ``tasks``
        with the counts of all stages; ``seconds_left`` and
        ``seconds_left_whole`` (false: at least so many); ``stages``, each
        as above;
        ``failures``, each with ``stage``, ``task``, ``kind``, ``text``,
        ``log``, ``node``, ``again`` (whether the chain tries it again by
        itself) and ``tasks`` (how many it stands for); ``stopped``
        (``reason``, ``stage``, ``task``, ``kind``, ``log``, or null); ``gates`` (job ids);
        ``accuracy`` per iteration; ``health``, as above, with its ``line``; ``notes``; ``next`` (a command, or empty).
        """
        survey, left = self.survey, self.estimate
        return {
            "schema": SCHEMA,
            "run": str(self.run.root),
            "launcher": self.launcher,
            "iterations": self.plan.iterations,
            "state": survey.state,
            "why": survey.why,
            "exit_code": self.exit_code,
            "tasks": {name: self.count(name) for name in _COUNTS},
            "seconds_left": left.seconds,
            "seconds_left_whole": left.whole,
            "stages": list(self.stages),
            "failures": self.failures(),
            "stopped": survey.stopped and survey.stopped.model_dump(),
            "gates": survey.gates,
            "accuracy": list(self.accuracy),
            "health": {name: {**found, "line": health_line(found)} for name, found in self.health.items()},
            "notes": survey.notes,
            "next": self.next,
        }

    def view(self) -> RenderableType:
        """The status as a table, between the run in one line and remarks."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        found = self.survey
        # All columns within the 80 of a plain terminal.
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for name in ("iteration", "stage", *_COUNTS):
            table.add_column(name, justify="right" if name in _COUNTS else "left", no_wrap=True)
        for row in (*self.stages, {"iteration": "all", "kind": ""} | {name: self.count(name) for name in _COUNTS}):
            table.add_row(str(row["iteration"]), row["kind"], *(str(row[name] or "-") for name in _COUNTS))
        why = f" ({one_line(found.why)})" if found.why else ""
        left = f", {self.estimate}" if found.state in {"running", "queued"} else ""
        tasks = f"{self.count('done')}/{self.count('total')} tasks"
        head = f"{one_line(str(self.run.root))}: {found.state}{why}, {tasks}{left}"
        return Group(Text(head), table, *(Text(f"{name}: {text}") for name, text in self._remarks()))

    def _remarks(self) -> Iterator[tuple[str, str]]:
        if self.accuracy:
            own = [name for name in MEASURES if name in self.accuracy[-1]][-1]
            values = ", ".join(f"{row['iteration']}: {row[own]['value']:.1%}" for row in self.accuracy if own in row)
            yield "accuracy", f"{values} ({MEASURES[own]}, by iteration)"
        for name in list(self.health)[-2:]:
            yield "health", f"{name}: {health_line(self.health[name])}"
        for row in self.stages:
            for task in self.survey.running.get(row["id"], ())[:_MOST_RUNNING]:
                progress = read_progress(self.run, self.plan.stage(row["id"]), task)
                if progress and progress.get("note"):
                    yield "running", one_line(f"{row['id']} {task}: {progress['note']}")
        failures = self.failures()
        for failure in failures[:_MOST_FAILURES]:
            task, text, log = f"{failure['stage']} {failure['task']}", failure["text"], failure["log"]
            more = f" and {failure['tasks'] - 1} more" if failure["tasks"] > 1 else ""
            again = "; it will be tried again" if failure["again"] and self.survey.gates else ""
            log = f"; log: {log}" if log and log not in text else ""
            yield "failed", one_line(f"{task}{more}: {text.removeprefix(f'{task}: ')}{again}{log}")
        if len(failures) > _MOST_FAILURES:
            yield "failed", f"and for {len(failures) - _MOST_FAILURES} other reasons; see --json"
        for note in self.survey.notes:
            yield "note", one_line(note)
        report, wait = self.run.report, "wait"
        if self.survey.state == "done":
            wait = f"nothing; table and plot: {report}" if report.is_dir() else f"wait; the last gate writes {report}"
        yield "next", one_line(self.next or wait)


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
    health = _health(run, plan)
    found.notes.extend(health_warnings(health))
    with suppress(OSError, DataError):  # 'hpcmaf aggregate' names damaged files
        found.notes.extend(filter(None, [alarm_line(readings(run))]))
    left = estimate(run, plan, profile, found.done, found.running)
    stages = []
    for stage in plan.stages:
        row: dict[str, Any] = {"id": stage.id, "iteration": stage.iteration, "kind": stage.kind}
        for name in ("done", "running", "pending"):
            row[name] = len(getattr(found, name).get(stage.id, ()))
        row["failed"] = sum(id == stage.id for id, _ in found.failures)
        row["total"] = len(stage.tasks)
        row["waiting"] = max(0, row["total"] - row["done"] - row["running"] - row["pending"] - row["failed"])
        stages.append(row)
    measured = tuple(filter(None, (accuracy(run, t) for t in range(plan.iterations + 1))))
    next = _next(run, profile, found)
    return Status(run, plan, profile.launcher, found, left, tuple(stages), measured, health, next)


def accuracy(run: RunDir, iteration: int) -> dict[str, Any] | None:
    """What was measured in an iteration, if it was; 'hpcmaf aggregate' says what is wrong with a damaged file."""
    try:
        measured = declared(read_json(run.metrics(iteration), Record))["accuracy"]
        values = {
            name: {key: float(measured[name][key]) for key in ("value", "se")} for name in MEASURES if name in measured
        }
    except (OSError, DataError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
    return {"iteration": iteration} | values if values else None


def _health(run: RunDir, plan: Plan) -> dict[str, dict[str, Any]]:
    """What the debates of each stage came to, in the order of the plan."""
    found = {}
    for stage in plan.stages:
        # What is damaged is for 'hpcmaf aggregate' to name.
        with suppress(OSError, DataError, ValueError, KeyError, TypeError, IndexError, AttributeError):
            if stage.spec.fan_out == "agent":
                found[f"iteration {stage.iteration}"] = selected(run.learned(stage.iteration), stage.tasks)
            elif stage.kind == "score":
                metrics = declared(read_json(run.metrics(stage.iteration), Record))
                found[f"iteration {stage.iteration}, evaluation"] = evaluated(metrics)
    return {name: values for name, values in found.items() if values}


def _next(run: RunDir, profile: Profile, found: Survey) -> str:
    root = shlex.quote(str(run.root))
    retry = f"hpcmaf retry {root}"
    if found.state == "done":
        report = shlex.quote(str(run.report))
        return "" if run.report.is_dir() or found.gates else f"hpcmaf aggregate {root} --out {report}"
    if found.state == "unknown" and profile.launcher == "slurm":
        return f"hpcmaf doctor --run {root}"
    if found.state in {"running", "queued"}:
        return f"hpcmaf logs {root} --failed" if found.failures else ""
    if found.refusal and not found.failures:
        return f"{lifting(found.refusal)}; then {retry}"
    if found.failures:
        return f"hpcmaf logs {root} --failed; then {retry}"
    if found.stopped is not None and found.stopped.kind == "gate":
        return f"hpcmaf logs {root} gate; then {retry}"
    return retry
