r"""The comparison table for a paper: booktabs, the best in bold, the second underlined."""

from __future__ import annotations

from collections.abc import Sequence

from hpcmaf.report.methods import UNHINTED, Row, ranks

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    # Signs that reports use, and Greek that recipes are named by, as pdflatex sets them without a package.
    **{"·": r"$\cdot$", "×": r"$\times$", "→": r"$\to$", "<": "$<$", ">": "$>$", "−": "$-$", "±": r"$\pm$"},
    **{"≤": r"$\le$", "≥": r"$\ge$", "≈": r"$\approx$", "∞": r"$\infty$", "–": "--", "—": "---", "…": r"\dots{}"},
    **{letter: f"$\\{name}$" for letter, name in zip(
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
        "omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split(),
        strict=True,
    )},
}  # fmt: skip


def escape(text: str) -> str:
    """Any text, as LaTeX shows it: letters beyond ASCII stay, what cannot be printed becomes a question mark."""
    return "".join(_SPECIAL.get(letter, letter if letter.isprintable() else "?") for letter in text)


def _needs(text: str) -> list[str]:
    """What a document has to have for the table to compile, as comments."""
    lines = ["% needs \\usepackage{booktabs}"]
    letters = sorted({letter for letter in text if not letter.isascii()})
    if letters:
        lines.append("% needs \\usepackage[T1]{fontenc} for letters with accents")
    # The last of Latin Extended-A: what pdflatex knows in UTF-8 without a further package.
    if beyond := [letter for letter in letters if letter > "\u017f"]:
        lines.append(f"% needs lualatex or xelatex, and a font that has them, for: {' '.join(beyond)}")
    return lines


def latex_table(found: Sequence[Row], baseline: str | None, reference: bool) -> str:
    """A ``table`` environment: a block per model, a line per method, a column per task; what it needs stands above."""
    tasks = list(dict.fromkeys(row.group.place[0] for row in found))
    columns = "l" + ("rr" if reference else "r") * len(tasks)
    lines = [
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
    return "\n".join([*_needs("".join(lines)), *lines]) + "\n"


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
    text = "Accuracy in percent; after $\\pm$ the standard error over evaluation problems: their population standard "
    text += "deviation over $\\sqrt{n}$"
    text += ", of one run, not how far runs differ" if runs[-1:] != [1] else ""
    text += f". Iterations: {', '.join(map(str, last))}; runs each: {', '.join(map(str, runs))}."
    text += " Bold: highest, underlined: second."
    if baseline:
        text += (
            f" $^{{*}}$: differs from {escape(baseline)} on the same problems, "
            "exact paired test, Holm-adjusted $p < 0.05$."
        )
    return f"{text} {escape(UNHINTED)}" if any(row.group.runs[0].unhinted for row in found) else text
