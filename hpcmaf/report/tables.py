"""One table, three ways to show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of text.

    Attributes
    ----------
    header
        One title per column; the first column is flush left, the others flush
        right.
    rows
        As many cells per row as titles.
    note
        What the figures mean, below the table.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def render_table(table: Table) -> str:
    """Plain text in aligned columns, for pipes, logs and files."""
    widths = [max(len(row[i]) for row in (table.header, *table.rows)) for i in range(len(table.header))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        return "  ".join([first, *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))])

    lines = [table.title, line(table.header), line(["-" * width for width in widths]), *map(line, table.rows)]
    return "\n".join(text.rstrip() for text in (*lines, *([table.note] if table.note else [])))


def markdown_table(table: Table) -> str:
    """The table in GitHub's markdown; its title is the caller's business."""

    def line(cells: Sequence[str]) -> str:
        # A bar in a run's name would open a column.
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|:--|" + "--:|" * (len(table.header) - 1)
    text = "\n".join([line(table.header), rule, *map(line, table.rows)])
    return f"{text}\n\n{table.note}" if table.note else text


def rich_table(table: Table) -> RichTable:
    """The table for a terminal."""
    from rich.table import Table as RichTable
    from rich.text import Text

    # Text, not markup: a run may be called [bold].
    result = RichTable(title=Text(table.title), caption=Text(table.note), title_justify="left", caption_justify="left")
    for position, name in enumerate(table.header):
        result.add_column(Text(name), justify="right" if position else "left", no_wrap=position == 0)
    for row in table.rows:
        result.add_row(*map(Text, row))
    return result
