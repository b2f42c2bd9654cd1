"""A run's status as text: a table for a terminal, aligned lines for anything else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hpcmaf.errors import one_line
from hpcmaf.evaluation.measures import MEASURES
from hpcmaf.launch.estimate import read_progress
from hpcmaf.launch.progress import clock
from hpcmaf.launch.status import StageStatus, Status

if TYPE_CHECKING:
    from rich.console import RenderableType

_HEADER = ("iteration", "stage", "done", "running", "pending", "failed", "waiting", "total", "left")
_STYLES = {
    "done": "green",
    "running": "cyan",
    "queued": "cyan",
    "stopped": "red",
    "stalled": "red",
    "unknown": "yellow",
}
_MOST_RUNNING = 4
_MOST_FAILURES = 8
_GAP = "  "


def plain(status: Status) -> str:
    """Aligned lines, for pipes and logs."""
    rows = [_HEADER, *map(_cells, status.stages), _total(status)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = [headline(status)]
    for row in rows:
        cells = [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        lines.append(_GAP.join(cells).rstrip())
    return "\n".join([*lines, *(f"{name}: {text}" for name, text in _remarks(status))])


def rich(status: Status) -> RenderableType:
    """The same for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    # All columns within the 80 of a plain terminal: one blank between them, not two and a line.
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    for position, name in enumerate(_HEADER):
        table.add_column(name, justify="left" if position < 2 else "right", no_wrap=True)
    before = None
    for row in status.stages:
        cells = [Text(cell) for cell in _cells(row)]
        if row.stage.iteration == before:
            cells[0] = Text("")
        elif before is not None:
            table.add_section() if len(status.stages) <= 12 else None
        before = row.stage.iteration
        for position, count, style in ((2, row.done, "green"), (3, row.running, "cyan"), (5, row.failed, "bold red")):
            cells[position].stylize(style if count else "dim")
        whole = row.done == row.total
        table.add_row(
            *cells, style="dim" if whole or not (row.done or row.running or row.pending or row.failed) else ""
        )
    table.add_section()
    table.add_row(*map(Text, _total(status)), style="bold")
    head = Text(headline(status))
    head.stylize(
        f"bold {_STYLES[status.survey.state]}",
        len(_name(status)) + 2,
        len(_name(status)) + 2 + len(status.survey.state),
    )
    remarks = [Text.assemble((f"{name} ", "bold"), text) for name, text in _remarks(status)]
    return Group(head, table, *remarks)


def headline(status: Status) -> str:
    """The whole run in one line."""
    why = f" ({one_line(status.survey.why)})" if status.survey.why else ""
    done = f"{status.count('done')}/{status.count('total')} tasks"
    return f"{_name(status)}: {status.survey.state}{why}, {done}{_left(status)}"


def change(status: Status) -> str:
    """What ``--watch`` prints in a pipe: equal as long as nothing happened."""
    counts = ", ".join(
        f"{row.stage.id} {row.done}/{row.total}" + (f" ({row.failed} failed)" if row.failed else "")
        for row in status.stages
        if row.running or row.pending or row.failed or 0 < row.done < row.total
    )
    done = f"{status.count('done')}/{status.count('total')} tasks"
    return f"{status.survey.state}: {done}" + (f"; {counts}" if counts else "")


def stamped(line: str) -> str:
    """A line with the time of day before it."""
    return f"{time.strftime('%H:%M:%S')} {line}"


def _name(status: Status) -> str:
    return one_line(str(status.run.root))


def _left(status: Status) -> str:
    left = status.estimate
    if status.survey.state not in {"running", "queued"}:
        return ""
    if left.seconds is None:
        return ", time left unknown"
    return f", {'about' if left.whole else 'at least'} {clock(left.seconds)} left"


def _cells(row: StageStatus) -> tuple[str, ...]:
    counts = (row.done, row.running, row.pending, row.failed, row.waiting)
    left = "" if row.done >= row.total else "?" if row.seconds_left is None else clock(row.seconds_left)
    return (
        str(row.stage.iteration),
        row.stage.kind,
        *(str(count) if count else "-" for count in counts),
        str(row.total),
        left,
    )


def _total(status: Status) -> tuple[str, ...]:
    counts = (status.count(name) for name in ("done", "running", "pending", "failed", "waiting"))
    left = status.estimate.seconds
    over = status.survey.state == "done"
    time_left = "" if over else "?" if left is None else f"{'' if status.estimate.whole else '>'}{clock(left)}"
    return ("all", "", *(str(count) if count else "-" for count in counts), str(status.count("total")), time_left)


def _remarks(status: Status) -> Iterator[tuple[str, str]]:
    if status.accuracy:
        own = [name for name in MEASURES if name in status.accuracy[-1]][-1]
        figures = ", ".join(f"{row['iteration']}: {row[own]['value']:.1%}" for row in status.accuracy if own in row)
        yield "accuracy", f"{figures} ({MEASURES[own]}, by iteration)"
    for row in status.stages:
        for task in status.survey.running.get(row.stage.id, ())[:_MOST_RUNNING]:
            progress = read_progress(status.run, row.stage, task)
            if progress and progress.get("note"):
                yield "running", one_line(f"{row.stage.id} {task}: {progress['note']}")
    failures = status.failures()
    for failure, count in failures[:_MOST_FAILURES]:
        task = f"{failure.stage} {failure.task}"
        more = f" and {count - 1} more" if count > 1 else ""
        again = "; it will be tried again" if failure.again and status.survey.gates else ""
        log = f"; log: {failure.log}" if failure.log and failure.log not in failure.text else ""
        yield "failed", one_line(f"{task}{more}: {failure.text.removeprefix(f'{task}: ')}{again}{log}")
    if len(failures) > _MOST_FAILURES:
        yield "failed", f"and for {len(failures) - _MOST_FAILURES} other reasons; see --json"
    for note in status.survey.notes:
        yield "note", one_line(note)
    if status.survey.state == "done":
        report = status.run.report
        table = f"nothing; table and plot: {report}" if report.is_dir() else f"wait; the last gate writes {report}"
        yield "next", one_line(status.next or table)
    else:
        yield "next", one_line(status.next or "wait")
