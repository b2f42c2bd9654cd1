"""``hpcmaf prompts``: what a recipe's model will read, token for token."""

from __future__ import annotations

from dataclasses import replace

import click

from hpcmaf.cli.options import RunOptions, run_options
from hpcmaf.debate.methods import METHODS
from hpcmaf.errors import UsageError
from hpcmaf.jobs.debate import protocol_of
from hpcmaf.launch.prepare import draw
from hpcmaf.models.basemodel import base_model
from hpcmaf.models.chat import ChatFormat


@click.command(short_help="Print every prompt of a recipe as the model will see it.")
@run_options
@click.option(
    "--problem", metavar="ID", help="A training or evaluation problem; the first training problem by default."
)
def command(options: RunOptions, problem: str | None) -> None:
    """Render a recipe's prompts on one of its problems, through the model's chat template.

    Where a prompt quotes other agents, a mark stands in for what they will
    have written. Nothing is generated; only the tokenizer is loaded.
    """
    recipe = options.recipe
    method, splits = METHODS[recipe.method], draw(recipe)
    known = {one.id: one for one in (*splits.train, *splits.eval)}
    if problem is not None and problem not in known:
        raise UsageError(f"--problem {problem}: not among this recipe's problems, such as {next(iter(known))}")
    chosen = known[problem] if problem is not None else splits.train[0]
    shapes = [recipe.shape(evaluating=True)] + [recipe.shape(evaluating=False)] * (method.trained != "none")
    rounds = 1 if method.reads_gold else max(shape.rounds for shape in shapes)
    protocol = replace(protocol_of(recipe, 0, evaluating=chosen not in splits.train), rounds=rounds)
    protocol.validate()
    model = recipe.model
    chat = ChatFormat.from_pretrained(
        base_model(model.path), revision=model.revision, trust_remote_code=model.trust_remote_code, **model.chat
    )
    for title, messages in protocol.sample_chats(chosen.question, hint=method.reads_gold):
        ids = chat.prompt_ids(messages)
        click.echo(f"--- {title}: {len(ids)} tokens")
        click.echo(chat.tokenizer.decode(ids) + "\n")
    ends = ", ".join(repr(chat.tokenizer.decode([token])) for token in chat.stop_ids)
    sampling = recipe.sampling
    thought = f", its thought after {sampling.thinking_tokens}" if sampling.thinking_tokens else ""
    click.echo(f"--- a response ends at {ends}, or after {sampling.max_new_tokens} tokens{thought}")
