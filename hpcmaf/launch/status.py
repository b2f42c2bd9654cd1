"""The state of a run: what is done, what runs, what went wrong, what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hpcmaf.debate.health import evaluated, health_line, health_warnings, selected
from hpcmaf.errors import ChainStoppedError, DataError, SlurmError, one_line
from hpcmaf.evaluation.accuracy import MEASURES, declared
from hpcmaf.evaluation.alarm import alarm_line, readings
from hpcmaf.files.publish import Record, read_json
from hpcmaf.launch.progress import estimate, read_progress
from hpcmaf.launch.slurm.refusals import lifting
from hpcmaf.launch.survey import Survey
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA = "hpcmaf-status/1"

_COUNTS = ("done", "running", "pending", "failed", "waiting", "total")
_MOST_RUNNING, _MOST_FAILURES = 4, 8
# What reading a damaged file may end as; 'hpcmaf aggregate' says what is wrong with it.
_DAMAGED = (OSError, DataError, ValueError, KeyError, TypeError, IndexError, AttributeError)


class Status(Survey):
    """A run at the moment at which this is made.

    Attributes
    ----------
    estimate
        Time left.
    stages
        Of each stage ``id``, ``iteration``, ``kind`` and counts of its tasks. ``pending`` tasks are in Slurm's queue,
        ``failed`` ones neither queued nor running again, ``waiting`` ones not submitted yet, or cancelled with the rest
        of the chain; with ``done`` and ``running`` they add up to ``total``.
    accuracy
        Of each evaluated iteration: ``{"iteration"}`` and its measures by name, such as ``answer`` and ``vote@M``, as
        ``{"value", "se"}``.
    health
        Of each stage that has debates, such as ``iteration 1`` and ``iteration 1, evaluation``, what they came to.
    """

    def __init__(self, run: RunDir) -> None:
        super().__init__(run)
        self.estimate = estimate(run, self.plan, self.profile, self.done, self.running)
        self.stages = [self._row(stage) for stage in self.plan.stages]
        measured = (_accuracy(run, iteration) for iteration in range(self.plan.iterations + 1))
        self.accuracy = [found for found in measured if found]
        self.health = _health(run, self.plan)
        self.notes += health_warnings(self.health)
        with suppress(OSError, DataError):
            self.notes += filter(None, [alarm_line(readings(run))])

    def _row(self, stage: Stage) -> dict[str, Any]:
        total = len(stage.tasks)
        counts = [len(tasks.get(stage.id, ())) for tasks in (self.done, self.running, self.pending)]
        counts.append(sum(id == stage.id for id, _ in self.failures))
        row = {"id": stage.id, "iteration": stage.iteration, "kind": stage.kind}
        return row | dict(zip(_COUNTS, (*counts, max(0, total - sum(counts)), total), strict=True))

    @property
    def exit_code(self) -> int:
        """0 while the run is well, 15 when it was stopped or has stalled, 13 when Slurm does not answer."""
        if self.state in {"stopped", "stalled"}:
            return ChainStoppedError.exit_code
        return SlurmError.exit_code if self.state == "unknown" else 0

    @property
    def next(self) -> str:
        """The command to type now; empty when there is only waiting to do."""
        root = shlex.quote(str(self.run.root))
        logs, retry = f"hpcmaf logs {root} --failed", f"hpcmaf retry {root}"
        if self.state == "done":
            ready = self.run.report.is_dir() or self.gates
            return "" if ready else f"hpcmaf aggregate {root} --out {shlex.quote(str(self.run.report))}"
        if self.state == "unknown":
            return f"hpcmaf doctor --run {root}"
        if self.state in {"running", "queued"}:
            return logs if self.failures else ""
        if self.failures:
            return f"{logs}; then {retry}"
        if self.refusal:
            return f"{lifting(self.refusal)}; then {retry}"
        if self.stopped is not None and self.stopped.kind == "gate":
            return f"hpcmaf logs {root} gate; then {retry}"
        return retry

    def count(self, name: str) -> int:
        """Sum of one of the counts over all stages."""
        return sum(stage[name] for stage in self.stages)

    def failure_groups(self) -> list[dict[str, Any]]:
        """Failures, those of a stage with one cause as one: ``tasks`` is how many it stands for."""
        groups: dict[tuple[str, str], dict[str, Any]] = {}
        for (stage, task), cause in self.failures.items():
            # The node and the numbers in a message differ from task to task; the words do not.
            words = "".join(c for c in cause.text.replace(task, "") if not c.isdigit())
            own = {"stage": stage, "task": task, "again": (stage, task) in self.again, "tasks": 0}
            groups.setdefault((stage, words), own | asdict(cause))["tasks"] += 1
        return list(groups.values())

    def to_json(self) -> dict[str, Any]:
        """The status as JSON values: attributes by their names.

        ``tasks`` has the counts of all stages; ``seconds_left`` is a lower bound unless ``seconds_left_whole``; each of
        ``failures`` says whether the chain tries it ``again`` by itself, and for how many ``tasks`` it stands; each of
        ``health`` has its ``line``.
        """
        return {
            "schema": SCHEMA,
            "run": str(self.run.root),
            "launcher": self.profile.launcher,
            "iterations": self.plan.iterations,
            "state": self.state,
            "why": self.why,
            "exit_code": self.exit_code,
            "tasks": {name: self.count(name) for name in _COUNTS},
            "seconds_left": self.estimate.seconds,
            "seconds_left_whole": self.estimate.whole,
            "stages": self.stages,
            "failures": self.failure_groups(),
            "stopped": self.stopped and self.stopped.model_dump(),
            "gates": self.gates,
            "accuracy": self.accuracy,
            "health": {name: {**found, "line": health_line(found)} for name, found in self.health.items()},
            "notes": self.notes,
            "next": self.next,
        }

    def view(self) -> RenderableType:
        """The status as a table, between the run in one line and remarks."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        # All columns within the 80 of a plain terminal.
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for name in ("iteration", "stage", *_COUNTS):
            table.add_column(name, justify="right" if name in _COUNTS else "left", no_wrap=True)
        for row in (*self.stages, {"iteration": "all", "kind": ""} | {name: self.count(name) for name in _COUNTS}):
            table.add_row(str(row["iteration"]), row["kind"], *(str(row[name] or "-") for name in _COUNTS))
        why = f" ({one_line(self.why)})" if self.why else ""
        left = f", {self.estimate}" if self.state in {"running", "queued"} else ""
        tasks = f"{self.count('done')}/{self.count('total')} tasks"
        head = f"{one_line(str(self.run.root))}: {self.state}{why}, {tasks}{left}"
        return Group(Text(head), table, *(Text(f"{name}: {text}") for name, text in self._remarks()))

    def _remarks(self) -> Iterator[tuple[str, str]]:
        if self.accuracy:
            own = [name for name in MEASURES if name in self.accuracy[-1]][-1]
            values = ", ".join(f"{row['iteration']}: {row[own]['value']:.1%}" for row in self.accuracy if own in row)
            yield "accuracy", f"{values} ({MEASURES[own]}, by iteration)"
        for name in list(self.health)[-2:]:
            yield "health", f"{name}: {health_line(self.health[name])}"
        for row in self.stages:
            for task in self.running.get(row["id"], ())[:_MOST_RUNNING]:
                progress = read_progress(self.run, self.plan.stage(row["id"]), task)
                if progress and progress.get("note"):
                    yield "running", one_line(f"{row['id']} {task}: {progress['note']}")
        failures = self.failure_groups()
        for failure in failures[:_MOST_FAILURES]:
            task, text, log = f"{failure['stage']} {failure['task']}", failure["text"], failure["log"]
            more = f" and {failure['tasks'] - 1} more" if failure["tasks"] > 1 else ""
            again = "; it will be tried again" if failure["again"] and self.gates else ""
            log = f"; log: {log}" if log and log not in text else ""
            yield "failed", one_line(f"{task}{more}: {text.removeprefix(f'{task}: ')}{again}{log}")
        if len(failures) > _MOST_FAILURES:
            yield "failed", f"and for {len(failures) - _MOST_FAILURES} other reasons; see --json"
        for note in self.notes:
            yield "note", one_line(note)
        report, wait = self.run.report, "wait"
        if self.state == "done":
            wait = f"nothing; table and plot: {report}" if report.is_dir() else f"wait; the last gate writes {report}"
        yield "next", one_line(self.next or wait)


def _accuracy(run: RunDir, iteration: int) -> dict[str, Any] | None:
    """What was measured in an iteration, if it was."""
    with suppress(*_DAMAGED):
        measured = declared(read_json(run.metrics(iteration), Record))["accuracy"]
        values = {
            name: {key: float(measured[name][key]) for key in ("value", "se")} for name in MEASURES if name in measured
        }
        return {"iteration": iteration} | values if values else None
    return None


def _health(run: RunDir, plan: Plan) -> dict[str, dict[str, Any]]:
    """What the debates of each stage came to, in the order of the plan."""
    found = {}
    for stage in plan.stages:
        with suppress(*_DAMAGED):
            if stage.spec.fan_out == "agent":
                found[f"iteration {stage.iteration}"] = selected(run.learned(stage.iteration), stage.tasks)
            elif stage.kind == "score":
                metrics = declared(read_json(run.metrics(stage.iteration), Record))
                found[f"iteration {stage.iteration}, evaluation"] = evaluated(metrics)
    return {name: values for name, values in found.items() if values}
