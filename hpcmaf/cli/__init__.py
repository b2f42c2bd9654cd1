"""The command line: one verb per file, loaded when it is used."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from hpcmaf import __version__
from hpcmaf.errors import HpcmafError

# Verb, its module, its line in --help. The line stands here so that help
# loads no verb.
VERBS = {
    "submit": ("submit", "Run a recipe: debates, finetuning, evaluation, for L iterations."),
    "aggregate": ("aggregate", "Tables and a plot from the results of runs."),
    "data": ("data", "Prepare a task's problems."),
    "grade": ("grade", "Say whether answers are equivalent."),
    "import": ("import_", "Bring the released code's debates into a store."),
    "inspect": ("inspect", "Show what a store of debates holds."),
    "micro": ("micro", "Remake or score the packaged micro base model."),
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
        if name not in VERBS:
            return None
        return import_module(f"hpcmaf.cli.{VERBS[name][0]}").command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hpcmaf")
def cli() -> None:
    """Multiagent finetuning of language models, as batch jobs or on a laptop."""


def main() -> None:
    """Entry point: one line and an exit code for every expected error."""
    try:
        # Outside standalone mode click hands an exit code back instead of leaving.
        sys.exit(cli.main(prog_name="hpcmaf", standalone_mode=False))
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; the same command goes on where this one stopped", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has seen enough (hpcmaf inspect ... | head).
        sys.stderr.close()
        sys.exit(141)
    except HpcmafError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
