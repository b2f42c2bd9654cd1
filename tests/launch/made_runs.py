"""Run directories made by hand: planned for real, their tasks' ends written down without running anything."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import Profile
from hpcmaf.evaluation.accuracy import MEASURES
from hpcmaf.files.publish import write_json, write_text
from hpcmaf.launch.slurm.submissions import Submission, Submissions
from hpcmaf.run.attempts import begin, leave_cause
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage, build_plan

# A cluster as small as the tests': quick to ask, quick to give up on.
CLUSTER = {
    "partition": "main",
    "command_seconds": 20.0,
    "settle_seconds": 1.0,
    "signal_seconds": 5,
    "generation": {"cpus": 1, "minutes": 10},
    "finetuning": {"cpus": 1, "minutes": 10},
    "merge": {"cpus": 1, "minutes": 10},
    "gate": {"cpus": 1, "minutes": 10},
}


def make_run(
    root: Path,
    *,
    launcher: str = "slurm",
    iterations: int = 1,
    train: int = 4,
    evaluation: int = 2,
    agents: int = 2,
    cluster: Mapping[str, Any] | None = None,
) -> tuple[RunDir, Plan, Profile]:
    """A planned run with a problem per shard; nothing of it has begun."""
    run = RunDir(root)
    values: dict[str, Any] = {"name": "made", "launcher": launcher, "attempts": 2, "jobs": 2}
    values["generation"] = {"problems_per_shard": 1}
    if launcher == "slurm":
        values["slurm"] = {**CLUSTER, **(cluster or {})}
    profile = Profile.model_validate(values)
    recipe = load_recipe(overrides=[f"debate.agents={agents}"], iterations=iterations)
    problems = {"train": {"count": train, "sha256": "0" * 64}, "eval": {"count": evaluation, "sha256": "0" * 64}}
    plan = build_plan(recipe, profile, problems, "sha256:made")
    write_text(run.recipe, json.dumps(recipe.model_dump(mode="json")))  # JSON is YAML
    write_text(run.profile, json.dumps(profile.model_dump(mode="json")))
    write_json(run.plan, plan.to_json())
    return run, plan, profile


def finish(run: RunDir, stage: Stage, tasks: Iterable[str] | None = None, seconds: float = 60.0) -> None:
    """Leave the markers of tasks, as if each had taken so long."""
    for task in stage.tasks if tasks is None else tasks:
        path = run.marker(stage, task)
        path.parent.mkdir(parents=True, exist_ok=True)
        ledger = [{"stage": stage.kind, "wall_seconds": seconds}]
        path.write_text(json.dumps({"schema": "hpcmaf-marker/1", "outputs": {}, "ledger": ledger}))
        if stage.kind == "score":
            measured = {name: {"value": 0.5 + stage.iteration / 100, "se": 0.01} for name in MEASURES}
            write_json(run.metrics(stage.iteration), {"accuracy": measured})


def submitted(run: RunDir, stage: Stage, tasks: Iterable[str], job: str | None, *, gate: bool = False) -> Submission:
    """Write a submission into the log, one task to an element."""
    log = Submissions(run.submissions)
    log.start()
    name = f"made.{stage.id.replace('/', '.')}{'.gate' if gate else ''}.{log.sequence + 1:04d}"
    log.intend(name, stage.id, [] if gate else [(task,) for task in tasks])
    if job is not None:
        log.confirm(name, job)
    return log.submissions[name]


def attempted(
    run: RunDir, stage: Stage, task: str, name: str, cause: Mapping[str, Any] | None = None, text: str = ""
) -> Path:
    """Leave an attempt with a log; returns its folder."""
    log = run.jobs(stage, name) / f"{task}_0_log.err"
    facts = {"submission": name, "job": "1", "node": "node1", "started": 0.0, "progress": 0, "log": str(log)}
    attempt = begin(run.attempts(stage, task), facts)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text)
    if cause is not None:
        leave_cause(attempt, cause)
    return attempt


def squeue_line(
    job: str, index: int | None, state: str, name: str, *, reason: str = "None", node: str = "", times: str = "N/A|N/A"
) -> str:
    """A line as :func:`hpcmaf.launch.slurm.commands.queue` gets it."""
    return f"{job}|{'N/A' if index is None else index}|{state}|{reason}|{node}|{name}|{times}"
