"""``hpcmaf stage``: a stage's tasks, here and now."""

from __future__ import annotations

import click

from hpcmaf.cli.options import run_argument
from hpcmaf.errors import DataError
from hpcmaf.launch.byhand import find_stage, find_tasks, run_stage
from hpcmaf.run.directory import RunDir


@click.command()
@run_argument
@click.argument("stage", metavar="STAGE")
@click.argument("tasks", metavar="[TASK]...", nargs=-1)
def command(run: RunDir, stage: str, tasks: tuple[str, ...]) -> None:
    """Run tasks of STAGE (such as it01/debate) of RUN in this process.

    A TASK is a number from 0, or a name such as 00003 or generator-0; without,
    all tasks that are not done run one after another. RUN must have been
    planned, by submit or by 'hpcmaf plan --write'. What is done already stays
    as it is; SIGTERM and SIGUSR2 make a task save what it has and end.
    """
    if not run.plan.exists():
        raise DataError(f"{run.root}: no planned run here; plan it with hpcmaf plan --write, or check the path")
    plan = run.load_plan()
    wanted = find_stage(plan, stage)
    failure = run_stage(run, plan, wanted, find_tasks(wanted, tasks))
    if failure is not None:  # said already, above its traceback
        raise click.exceptions.Exit(failure.exit_code)
