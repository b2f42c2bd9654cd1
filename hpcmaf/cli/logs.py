"""``hpcmaf logs``: the logs of a run's tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hpcmaf.launch.logs import Log, Selection
    from hpcmaf.launch.survey import Survey
    from hpcmaf.run.directory import RunDir
    from hpcmaf.run.plan import Plan

_MOST_LOGS = 10


@click.command()
@click.argument("run_name", metavar="RUN")
@click.option("--failed", is_flag=True, help="Of tasks that failed.")
@click.option("--iter", "iteration", type=click.IntRange(min=0), metavar="T", help="Of this iteration.")
@click.option(
    "--stage",
    "kind",
    type=click.Choice(["debate", "merge", "finetune", "eval", "score", "gate"]),
    help="Of this stage; gate: of the job that moves the chain on.",
)
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Of this task; repeatable.")
@click.option("--agent", "agents", multiple=True, metavar="NAME", help="Of this agent's finetuning; repeatable.")
@click.option("--follow", "-f", is_flag=True, help="Go on with the last of them until its task has ended.")
@click.option("--lines", "-n", type=click.IntRange(min=0), default=40, show_default=True, help="Of each; 0: all.")
def command(
    run_name: str,
    failed: bool,
    iteration: int | None,
    kind: str | None,
    tasks: tuple[str, ...],
    agents: tuple[str, ...],
    follow: bool,
    lines: int,
) -> None:
    """Print the end of the logs of tasks' last attempts.

    Without a choice: of what failed, else of what runs, else of what ended
    last.
    """
    from hpcmaf.launch.logs import GATE, Selection, gate_logs, tail, task_logs
    from hpcmaf.launch.logs import follow as follow_file
    from hpcmaf.run.directory import RunDir

    run = RunDir.locate(run_name)
    plan = run.load_plan()
    if kind == GATE:
        logs = gate_logs(run, plan, Selection(iteration))
    else:
        selection = Selection(iteration, "finetune" if agents and not kind else kind or "", (*tasks, *agents))
        keys = selection.keys(plan)
        found = None
        if failed or selection == Selection():
            found = _look(run, plan)
            keys &= _choice(run, plan, found, failed)
        logs = task_logs(run, plan, keys)
        if failed and found is not None:
            _say_what_failed(run, plan, found, keys, selection, logs)
    for position, log in enumerate(logs[-_MOST_LOGS:]):
        click.echo(f"{chr(10) if position else ''}=== {log.title}: {log.path}")
        for line in tail(log.path, lines):
            click.echo(line)
    if not logs and not failed:
        click.echo(f"{run.root}: no logs yet", err=True)
    elif len(logs) > _MOST_LOGS:
        click.echo(f"{len(logs) - _MOST_LOGS} more log(s); choose with --iter, --stage, --task", err=True)
    if follow and logs:
        for line in follow_file(logs[-1].path, logs[-1].over):
            click.echo(line)


def _look(run: RunDir, plan: Plan) -> Survey:
    from hpcmaf.config.profile import load_profile
    from hpcmaf.launch.survey import survey

    found = survey(run, plan, load_profile(str(run.profile)))
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    return found


def _choice(run: RunDir, plan: Plan, found: Survey, failed: bool) -> set[tuple[str, str]]:
    """Tasks that failed; or, where anything will do, what is most worth reading."""
    from hpcmaf.launch.survey import begun_tasks

    stopped = found.stopped or {}
    worth = set(found.failures)
    if stopped.get("task"):
        worth.add((str(stopped.get("stage")), str(stopped["task"])))
    if failed or worth:
        return worth
    running = {(id, task) for id, tasks in found.running.items() for task in tasks}
    begun = begun_tasks(run, plan)
    newest = [key for stage in plan.stages for task in stage.tasks if (key := (stage.id, task)) in begun]
    return running or set(newest[-1:])


def _say_what_failed(
    run: RunDir, plan: Plan, found: Survey, keys: set[tuple[str, str]], selection: Selection, logs: list[Log]
) -> None:
    """What failed without a log, in the words of status; add the log of a gate that stopped the run."""
    from hpcmaf.errors import one_line
    from hpcmaf.launch.logs import GATE, Selection, gate_logs, task_logs

    stopped = found.stopped or {}
    if stopped.get("kind") == GATE:
        logs += gate_logs(run, plan, Selection(selection.iteration))
        click.echo(f"{run.root}: {one_line(str(stopped['reason']))}", err=True)
    silent = [key for key in sorted(keys & found.failures.keys()) if not task_logs(run, plan, {key})]
    for key in silent[:_MOST_LOGS]:
        failure = found.failures[key]
        where = f" on {failure.node}" if failure.node and failure.node not in failure.text else ""
        click.echo(f"{failure.stage} {failure.task}: {one_line(failure.text)}{where}; it left no log", err=True)
    if len(silent) > _MOST_LOGS:
        click.echo(f"and {len(silent) - _MOST_LOGS} more without a log; see hpcmaf status --json", err=True)
    if not logs and not silent and not keys:
        nothing = "what failed is not known" if found.state == "unknown" else "nothing failed"
        click.echo(f"{run.root}: {nothing}", err=True)
