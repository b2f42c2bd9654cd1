"""The report as one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from hpcmaf.publish import write_text
from hpcmaf.report.report import Report
from hpcmaf.report.sections import group_table, overview_table, run_tables
from hpcmaf.report.tables import Table

if TYPE_CHECKING:
    from hpcmaf.report.lines import Drawn

# More runs than this are shown by recipe only; report.md has them all.
MOST_RUNS = 20
# Wider pictures have a row of their own.
BROAD_POINTS = 620.0


def write_page(
    report: Report, plots: Sequence[Drawn], out: Path, debates: Sequence[dict[str, Any]], notes: Sequence[str]
) -> None:
    """Write ``report.html`` into ``out``, with the plots that lie there already.

    Text of models and names of runs are data: they are escaped, and debates
    travel as JSON that no script tag can be closed from.
    """
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=escape(report.title or "Runs"),
        missing=_lines("Missing", report.missing) + _lines("Warnings", report.warnings),
        plots="\n".join(_figure(plot, out) for plot in plots),
        tables="\n".join(_sections(report)),
        notes="".join(f"<p class=note>{escape(note)}</p>" for note in notes),
        debates=script_json(debates),
    )
    write_text(out / "report.html", page)


def script_json(value: Any) -> str:
    """JSON that can stand inside a script element, whatever it holds."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def html_table(table: Table) -> str:
    """A table with its title above and its note below."""
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in table.header)
    rows = "\n".join(
        "<tr>"
        + "".join(
            f"<{'td' if i else 'th scope=row'}>{escape(cell)}</{'td' if i else 'th'}>" for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in table.rows
    )
    note = f"<p class=note>{escape(table.note)}</p>" if table.note else ""
    return (
        f"<h3>{escape(table.title)}</h3><div class=wide><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{note}"
    )


def _lines(name: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<section id={name.lower()} class=said><h2>{name}</h2><ul>{items}</ul></section>"


def _figure(plot: Drawn, out: Path) -> str:
    # As an image of its own: the ids of several SVGs in one page would clash.
    picture = (out / f"{plot.stem}.svg").read_bytes()
    data = base64.b64encode(picture).decode()
    about = escape(plot.about)
    # Several axes side by side cannot be read at half the page's width.
    width = re.search(rb'<svg[^>]* width="([\d.]+)pt"', picture)
    broad = " class=broad" if width and float(width[1]) > BROAD_POINTS else ""
    return (
        f'<figure id="plot-{escape(plot.stem)}"{broad}><img alt="{about}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{about}</figcaption></figure>"
    )


def _sections(report: Report) -> list[str]:
    parts = []
    if len(report.runs) > 1:
        parts.append(html_table(overview_table(report.groups)))
    parts += map(html_table, report.method_tables())
    for group in report.groups:
        tables = [group_table(group)] if len(group.runs) > 1 else []
        if len(report.runs) <= MOST_RUNS:
            tables += [table for run in group.runs for table in run_tables(run)]
        tables += report.behaviour[group.label]
        opened = " open" if len(report.groups) == 1 else ""
        body = "\n".join(map(html_table, tables))
        parts.append(f"<details{opened}><summary>{escape(group.label)}</summary>{body}</details>")
    return parts
