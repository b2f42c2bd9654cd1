"""The command line: one verb per file, loaded when it is used."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from hpcmaf import __version__
from hpcmaf.errors import HpcmafError, Interrupted, OutputClosedError, UsageError, exit_codes, one_line, system_error

# Verb, its module, its line in --help. The line stands here so that help loads no verb.
VERBS = {
    "submit": ("submit", "Run a recipe: debates, finetuning, evaluation, for L iterations."),
    "study": ("study", "Run methods x tasks x models x seeds, sharing what is the same."),
    "plan": ("plan", "Show stages, jobs, batch scripts and the ceiling of GPU-hours; do nothing."),
    "prompts": ("prompts", "Print every prompt of a recipe as the model will see it."),
    "stage": ("stage", "Run a stage's tasks in this process, as slurm/stage.sh does."),
    "status": ("status", "Show how far a run is, what failed, and what to do next."),
    "logs": ("logs", "Show the logs of a run's tasks."),
    "retry": ("retry", "Give failed tasks of a run a fresh start."),
    "cancel": ("cancel", "Cancel a run's jobs."),
    "doctor": ("doctor", "Find out what this machine and its cluster lack."),
    "aggregate": ("aggregate", "Tables, plots and a page from the results of runs."),
    "solve": ("solve", "Ask a finetuned society a question and show the debate."),
    "export": ("export", "Take an agent out of a run: adapter, merged model or training sets."),
    "diversity": ("diversity", "Measure how differently a run's agents answer, with models."),
    "data": ("data", "Prepare a task's problems."),
    "grade": ("grade", "Say whether answers are equivalent."),
    "extract": ("extract", "Take the final answers out of responses."),
    "import": ("import_", "Bring the released code's debates into a store."),
    "inspect": ("inspect", "Show what is in a store of debates."),
    "select": ("select", "Choose every agent's training data from a store."),
    "verify": ("verify", "Check stores, shards or a whole run for damage."),
}


class Verbs(click.Group):
    """A group whose commands are imported on demand."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Names of all verbs."""
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import one verb."""
        return import_module(f"hpcmaf.cli.{VERBS[name][0]}").command if name in VERBS else None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in VERBS.items()])


# \b keeps click from filling the lines.
_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {about}" for code, about in exit_codes().items())


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, prog_name="hpcmaf")
def cli() -> None:
    """Multiagent finetuning of language models, as batch jobs or on a laptop."""


def main() -> None:
    """Entry point: one line and an exit code for every expected error."""
    _stand_in_for_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # File names need not be text, and terminals need not know every character.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _run()
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "hpcmaf"
        code = _fail(UsageError(f"{_filled(error).rstrip('.')}; see '{path} --help'"))
    except click.ClickException as error:
        code = _fail(UsageError(_filled(error)))
    except (click.Abort, KeyboardInterrupt):
        code = _fail(Interrupted("interrupted; the same command resumes where this one stopped, or starts again"))
    except BrokenPipeError:
        code = OutputClosedError.exit_code
    except (OSError, MemoryError) as error:
        code = _fail(system_error(error))
    except HpcmafError as error:
        code = _fail(error)
    _drop_unwritten()
    sys.exit(code)


def _run() -> int:
    if "_HPCMAF_COMPLETE" in os.environ:  # a shell asks what could follow
        cli.main(prog_name="hpcmaf")
    try:
        # Not cli.main: it takes a closed pipe for a failure of code 1.
        with cli.make_context("hpcmaf", sys.argv[1:]) as context:
            cli.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    return 0


def _filled(error: click.ClickException) -> str:
    return " ".join(error.format_message().split())


def _fail(error: HpcmafError) -> int:
    try:
        click.echo(f"error: {one_line(str(error))}", err=True)
    except OSError:
        pass  # stderr is closed; the exit code is all that is left
    return error.exit_code


def _drop_unwritten() -> None:
    """Keep the interpreter from failing once more on what a closed pipe or full disk did not take."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _stand_in_for_closed_streams() -> None:
    """Give a process that was started without standard streams (``>&-``) ones that lead nowhere."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest free descriptor, so no file that is opened later is taken for a stream.
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(descriptor, mode))  # noqa: SIM115 - lives as long as the process
