"""``hpcmaf extract``: which answers do responses give?"""

from __future__ import annotations

import click

from hpcmaf.answers import AnswerForm, extract
from hpcmaf.cli.grade import read_records, write_record
from hpcmaf.errors import UsageError


@click.command("extract")
@click.option(
    "--form",
    type=click.Choice([form.value for form in AnswerForm if form is not AnswerForm.CODE]),
    required=True,
    help="What kind of answer to look for.",
)
@click.option(
    "--jsonl",
    required=True,
    metavar="FILE",
    help='Lines with "text" and, where known, "finish_reason" (of one cut off by "length" only an explicit answer '
    'counts); "-" reads standard input. Writes each back with "answer".',
)
@click.option("--letters", default="ABCD", show_default=True, metavar="LETTERS", help="The choices of --form letter.")
def command(form: str, jsonl: str, letters: str) -> None:
    """Write every response back with the answer that would vote, null where there is none.

    \b
    hpcmaf extract --form boxed --jsonl responses.jsonl > answers.jsonl
    """
    if not (letters.isascii() and letters.isalpha() and letters.isupper()):
        raise UsageError(f"--letters: {letters!r} is not a row of capital letters: write ABCD or ABCDEFGHIJ")
    for record in read_records(jsonl, ("text",)):
        text = record["text"] if record["text"] is None else str(record["text"])
        cut_off = record.get("finish_reason") == "length"
        write_record(record | {"answer": extract(text, form, truncated=cut_off, letters=letters)})
