"""``hpcmaf logs``: the logs of a run's tasks."""

from __future__ import annotations

from collections.abc import Sequence

import click

from hpcmaf.cli.options import run_argument
from hpcmaf.errors import one_line
from hpcmaf.launch.byhand import find_stage, find_tasks
from hpcmaf.launch.logs import GATE, Log, gate_logs, tail, task_logs
from hpcmaf.launch.survey import Survey
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, TaskKey

_MOST_LOGS = 10


@click.command()
@run_argument
@click.argument("stage", metavar="[STAGE]", required=False)
@click.argument("tasks", metavar="[TASK]...", nargs=-1)
@click.option("--failed", is_flag=True, help="Of tasks that failed.")
@click.option("--lines", "-n", type=click.IntRange(min=0), default=40, show_default=True, help="Of each; 0: all.")
def command(run: RunDir, stage: str | None, tasks: tuple[str, ...], failed: bool, lines: int) -> None:
    """Print the end of the logs of tasks' last attempts.

    STAGE is such as it01/debate, or gate for the job that moves the chain on;
    a TASK is a number from 0, or a name. Without them: of what failed, else of
    what runs. 'tail -f' follows the log whose path stands above it.
    """
    plan = run.load_plan()
    if stage == GATE:
        logs = gate_logs(run, plan)
    else:
        chosen = plan.stages if stage is None else [find_stage(plan, stage)]
        keys = {(one.id, task) for one in chosen for task in find_tasks(one, tasks) or one.tasks}
        if failed or stage is None:
            found = Survey(run)
            keys &= _worth_reading(found, failed)
        logs = task_logs(run, plan, keys)
        if failed:
            logs += _explain(run, plan, found, keys, logs)
    for log in logs[-_MOST_LOGS:]:
        click.echo(f"=== {log.title}: {log.path}")
        for line in tail(log.path, lines):
            click.echo(line)
    if not logs and not failed:
        click.echo(f"{run.root}: no logs; name a stage to see those of tasks that are done", err=True)
    elif len(logs) > _MOST_LOGS:
        click.echo(f"{len(logs) - _MOST_LOGS} more log(s); name a stage and tasks", err=True)


def _worth_reading(found: Survey, failed: bool) -> set[TaskKey]:
    """Tasks that failed; or, where anything will do, those that run."""
    keys = set(found.failures)
    if found.stopped is not None and found.stopped.task:
        keys.add((found.stopped.stage, found.stopped.task))
    return keys if failed or keys else {(id, task) for id, tasks in found.running.items() for task in tasks}


def _explain(run: RunDir, plan: Plan, found: Survey, keys: set[TaskKey], logs: Sequence[Log]) -> list[Log]:
    """Print what failed without a log, in the words of status; returns the log of a gate that failed."""
    for key in sorted((keys & found.failures.keys()) - {log.key for log in logs}):
        cause = found.failures[key]
        where = f" on {cause.node}" if cause.node and cause.node not in cause.text else ""
        click.echo(f"{' '.join(key)}: {one_line(cause.text)}{where}; it left no log", err=True)
    if found.stopped is not None and found.stopped.kind == GATE:
        click.echo(f"{run.root}: {one_line(found.stopped.reason)}", err=True)
        return gate_logs(run, plan)
    if not keys:
        nothing = "what failed is not known" if found.state == "unknown" else "nothing failed"
        click.echo(f"{run.root}: {nothing}", err=True)
    return []
