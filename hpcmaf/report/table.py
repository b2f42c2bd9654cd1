"""One table, shown on a terminal, in a pipe, in markdown and in LaTeX; the page's template shows it in HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table as RichTable

NONE = "–"
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    # Signs that reports use, as pdflatex sets them without a package.
    **{"·": r"$\cdot$", "×": r"$\times$", "→": r"$\to$", "<": "$<$", ">": "$>$", "−": "$-$", "±": r"$\pm$"},
    **{"≤": r"$\le$", "≥": r"$\ge$", "≈": r"$\approx$", "∞": r"$\infty$", "–": "--", "—": "---", "…": r"\dots{}"},
    **{"‘": "`", "’": "'", "“": "``", "”": "''"},
}  # fmt: skip
NEEDS = "% needs booktabs; for accents [T1]{fontenc}; for other scripts lualatex or xelatex, and a font that has them"


def percent(share: float | None) -> str:
    """``0.5`` as ``50.00``."""
    return NONE if share is None else f"{100 * share:.2f}"


def estimate(one: Mapping[str, Any] | None) -> str:
    """A share and its standard error, in percent: ``50.00 ± 2.24``."""
    return NONE if one is None else f"{percent(one['value'])} ± {percent(one['se'])}"


def iteration_name(t: int) -> str:
    """The untouched base is iteration 0."""
    return "0 (base)" if t == 0 else str(t)


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of text.

    Attributes
    ----------
    header
        One title per column; the first column is flush left, the others flush right.
    rows
        As many cells per row as titles.
    note
        What the values mean, below the table.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def plain(self) -> str:
        """Aligned columns, for pipes, logs and files."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]

        def line(cells: Sequence[str]) -> str:
            first, *others = zip(cells, widths, strict=True)
            return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])

        lines = [self.title, line(self.header), line(["-" * width for width in widths]), *map(line, self.rows)]
        return "\n".join(text.rstrip() for text in (*lines, *([self.note] if self.note else [])))

    def markdown(self) -> str:
        """GitHub's; the title is the caller's business."""

        def line(cells: Sequence[str]) -> str:
            # A bar in a run's name would open a column.
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        rule = "|:--|" + "--:|" * (len(self.header) - 1)
        text = "\n".join([line(self.header), rule, *map(line, self.rows)])
        return f"{text}\n\n{self.note}" if self.note else text

    def rich(self) -> RichTable:
        """For a terminal."""
        from rich.table import Table as RichTable
        from rich.text import Text

        # Text, not markup: a run may be called [bold].
        left = {"title_justify": "left", "caption_justify": "left"}
        result = RichTable(title=Text(self.title), caption=Text(self.note), **left)
        for position, name in enumerate(self.header):
            result.add_column(Text(name), justify="right" if position else "left", no_wrap=position == 0)
        for row in self.rows:
            result.add_row(*map(Text, row))
        return result

    def latex(self) -> str:
        """A ``table`` environment with booktabs; what a document needs for it stands above, as comments."""
        lines = [
            "\\begin{table}",
            "\\centering",
            f"\\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}",
            "\\toprule",
            " & ".join(map(escape, self.header)) + r" \\",
            "\\midrule",
        ]
        lines += [" & ".join(map(escape, row)) + r" \\" for row in self.rows]
        caption = f"{self.title}. {self.note}"
        lines += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{escape(caption)}}}", "\\end{table}"]
        return "\n".join([NEEDS, *lines]) + "\n"


def escape(text: str) -> str:
    """Any text, as LaTeX shows it: letters beyond ASCII stay, what cannot be printed becomes a question mark."""
    return "".join(_LATEX.get(letter, letter if letter.isprintable() else "?") for letter in text)
