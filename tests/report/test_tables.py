"""One table in three renderings."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hpcmaf.report import Table, render_table
from hpcmaf.report.sections import estimate, p_value, percent
from hpcmaf.report.tables import markdown_table, rich_table

TABLE = Table("Title", ("name", "value"), (("a|b [bold]", "1.00"), ("c", "± 22.00")), "A note.")


def test_plain() -> None:
    assert render_table(TABLE).splitlines() == [
        "Title",
        "name          value",
        "----------  -------",
        "a|b [bold]     1.00",
        "c           ± 22.00",
        "A note.",
    ]
    assert render_table(Table("Empty", ("x", "y"), ())) == "Empty\nx  y\n-  -"


def test_markdown_keeps_bars_inside_cells() -> None:
    lines = markdown_table(TABLE).splitlines()
    assert lines[:3] == ["| name | value |", "|:--|--:|", "| a\\|b [bold] | 1.00 |"]
    assert lines[-1] == "A note."


def test_terminal_shows_names_as_they_are() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    console.print(rich_table(TABLE))
    text = console.file.getvalue()
    assert "a|b [bold]" in text and "Title" in text and "A note." in text


@pytest.mark.parametrize(
    ("p", "shown"),
    [(1.0, "1.000"), (0.0493, "0.049"), (0.001, "0.001"), (0.00099, "9.9e-04"), (3e-45, "3.0e-45"), (0.0, "< 1e-99")],
)
def test_p_values_are_never_a_bare_zero(p: float, shown: str) -> None:
    assert p_value(p) == shown


def test_shares_are_shown_in_percent() -> None:
    assert (percent(0.5), percent(None)) == ("50.00", "–")
    assert (estimate({"value": 0.432, "se": 0.0222}), estimate(None)) == ("43.20 ± 2.22", "–")
