"""One table, as every reader gets it."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hpcmaf.report import Table
from hpcmaf.report.compare import p_value
from hpcmaf.report.table import _LATEX as SPECIAL
from hpcmaf.report.table import escape, estimate, percent

TABLE = Table("Title", ("name", "value"), (("a|b [bold]", "1.00"), ("c", "± 22.00")), "A note.")


def test_plain() -> None:
    assert TABLE.plain().splitlines() == [
        "Title",
        "name          value",
        "----------  -------",
        "a|b [bold]     1.00",
        "c           ± 22.00",
        "A note.",
    ]
    assert Table("Empty", ("x", "y"), ()).plain() == "Empty\nx  y\n-  -"


def test_markdown_keeps_bars_inside_cells() -> None:
    lines = TABLE.markdown().splitlines()
    assert lines[:3] == ["| name | value |", "|:--|--:|", "| a\\|b [bold] | 1.00 |"]
    assert lines[-1] == "A note."


def test_terminal_shows_names_as_they_are() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    console.print(TABLE.rich())
    text = console.file.getvalue()
    assert "a|b [bold]" in text and "Title" in text and "A note." in text


def test_latex_escapes_and_says_what_it_needs() -> None:
    table = Table("T_1", ("name", "value"), (("a&b", "1 ± 2*"), ("naïve β 中", "0")), "50 %.")
    lines = table.latex().splitlines()
    assert lines[0].startswith("% needs booktabs; for accents [T1]{fontenc}; for other scripts lualatex")
    assert "\\caption{T\\_1. 50 \\%.}" in lines and "\\begin{tabular}{lr}" in lines
    assert "a\\&b & 1 $\\pm$ 2* \\\\" in lines
    assert "naïve β 中 & 0 \\\\" in lines


@given(st.text())
def test_any_name_is_harmless_latex(text: str) -> None:
    plain = escape(text)
    assert plain.isprintable()
    for mark in sorted(map(escape, SPECIAL), key=len, reverse=True):
        plain = plain.replace(mark, "")
    assert not set(plain) & set("&%#_~^\\$|{}<>")


@pytest.mark.parametrize(
    ("p", "shown"),
    [(1.0, "1.000"), (0.0493, "0.049"), (0.001, "0.001"), (0.00099, "9.9e-04"), (3e-45, "3.0e-45"), (0.0, "< 1e-99")],
)
def test_p_values_are_never_a_bare_zero(p: float, shown: str) -> None:
    assert p_value(p) == shown


def test_shares_are_shown_in_percent() -> None:
    assert (percent(0.5), percent(None)) == ("50.00", "–")
    assert (estimate({"value": 0.432, "se": 0.0222}), estimate(None)) == ("43.20 ± 2.22", "–")
