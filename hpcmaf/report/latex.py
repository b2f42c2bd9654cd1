r"""The comparison table for a paper: booktabs, the best in bold, the second underlined."""

from __future__ import annotations

from collections.abc import Sequence

from hpcmaf.report.methods import Row, ranks

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "→": r"$\to$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"\textbar{}",
}


def escape(text: str) -> str:
    """Any text, as LaTeX shows it; what plain LaTeX has no letter for becomes a question mark."""
    return "".join(
        _SPECIAL.get(letter, letter if letter.isascii() and letter.isprintable() else "?") for letter in text
    )


def latex_table(found: Sequence[Row], baseline: str | None, reference: bool) -> str:
    """A ``table`` environment: a block per model, a line per method, a column per task.

    Needs ``\\usepackage{booktabs}``.
    """
    tasks = list(dict.fromkeys(row.group.place[0] for row in found))
    columns = "l" + ("rr" if reference else "r") * len(tasks)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        " & ".join(["Method", *(cell for task in tasks for cell in [escape(task), *["paper"] * reference])]) + r" \\",
    ]
    for model in dict.fromkeys(row.group.place[1] for row in found):
        here = [row for row in found if row.group.place[1] == model]
        lines += ["\\midrule", f"\\multicolumn{{{len(columns)}}}{{l}}{{\\emph{{{escape(model)}}}}} \\\\"]
        marks: dict[int, int] = {}
        for task in tasks:
            column = [row for row in here if row.group.place[0] == task]
            # Compared as printed: a difference nobody sees is no first place.
            places = ranks([round(100 * row.point.value, 2) for row in column])
            marks |= {id(row): place for row, place in zip(column, places, strict=True)}
        for name in dict.fromkeys(row.group.line for row in here):
            cells = [escape(name)]
            for task in tasks:
                row = next((row for row in here if row.group.line == name and row.group.place[0] == task), None)
                cells.append(_cell(row, marks.get(id(row), 0)))
                if reference:
                    cells.append("--" if row is None or row.paper is None else f"{100 * row.paper:.2f}")
            lines.append(" & ".join(cells) + r" \\")
    lines += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{_caption(found, baseline)}}}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def _cell(row: Row | None, place: int) -> str:
    if row is None:
        return "--"
    value = f"{100 * row.point.value:.2f}"
    value = {1: f"\\textbf{{{value}}}", 2: f"\\underline{{{value}}}"}.get(place, value)
    # With the one way LaTeX has to set stars without a package.
    star = "$^{*}$" if row.tested and row.tested.p_holm is not None and row.tested.p_holm < 0.05 else ""
    return f"{value} $\\pm$ {100 * row.point.se:.2f}{star}"


def _caption(found: Sequence[Row], baseline: str | None) -> str:
    last = sorted({row.iteration for row in found})
    runs = sorted({row.point.runs for row in found})
    text = "Accuracy (\\%) $\\pm$ standard error over problems; bold: highest, underlined: second."
    text += f" Iterations: {', '.join(map(str, last))}; runs each: {', '.join(map(str, runs))}."
    if baseline:
        text += (
            f" $^{{*}}$: differs from {escape(baseline)} on the same problems, "
            "exact paired test, Holm-adjusted $p < 0.05$."
        )
    return text
