"""Tables as every reader gets them, and what goes into a paper: LaTeX, its marks, the paper's own figures, the cost."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hpcmaf.report.compare import p_value
from hpcmaf.report.methods import spent
from hpcmaf.report.records import read_run
from hpcmaf.report.reference import published
from hpcmaf.report.report import aggregate
from hpcmaf.report.table import Table, _LATEX as SPECIAL
from hpcmaf.report.table import escape, estimate, percent
from hpcmaf.run.directory import RunDir
from tests.report.conftest import MakeRun, groups_of, report_of


@pytest.fixture
def study(make_run: MakeRun) -> list[RunDir]:
    model = {"path": "microsoft/Phi-3-mini-128k-instruct"}
    return [
        make_run(f"{method}-{seed}", seed=seed, upto=upto, gain=gain, method=method, model=model, problems=60)
        for seed in (0, 1)
        for method, gain, upto in (("maft", 0.6, 1), ("maft-no-critic", 0.3, 1), ("debate", 0, 0))
    ]


def test_table_for_a_paper(study: list[RunDir], tmp_path: Path) -> None:
    report = aggregate([run.root for run in study], tmp_path, baseline="debate", reference=True)
    text = (tmp_path / "report.tex").read_text()
    lines = text.splitlines()
    assert [text.count(f"\\{rule}") for rule in ("toprule", "midrule", "bottomrule")] == [1, 1, 1]
    assert text.count("{") == text.count("}")
    columns = re.search(r"begin\{tabular\}\{(\w+)\}", text).group(1)
    body = [line for line in lines if line.endswith(r"\\")]
    assert {line.count("&") + 1 for line in body} == {len(columns)}
    rows = {line.split(" &")[0]: line for line in body}
    best, second, worst = (rows[name] for name in ("maft", "maft-no-critic", "debate"))
    # The paper's own, after as many iterations.
    assert "& 99.40" in best and "& 98.20" in second and "& 96.20" in worst
    tested = {row.group.line: row.tested for row in report.rows}
    for name, line in rows.items():
        starred = tested.get(name) is not None and tested[name].p_holm < 0.05
        assert ("*" in line) == starred
    assert "*" in best
    # The same values in the terminal's table, and the tests in words.
    (row,) = (row for row in report.rows if row.group.line == "maft")
    assert estimate(row.point) in report.text and percent(row.point["value"]) in best
    assert f"above: {row.tested.sentence}" in report.text and "against the base's debate: +" in row.tested.sentence


def test_cost_is_what_improving_took(study: list[RunDir]) -> None:
    costs = {group.line: spent(group) for group in groups_of(*study)}
    # Debates of iteration 1: two rows of 1000 and 200 tokens; finetuning: two of 70.
    assert (costs["maft"]["generated"], costs["maft"]["trained"], costs["maft"]["wall_seconds"]) == (2400, 140, 6.0)
    assert (costs["debate"]["generated"], costs["debate"]["trained"]) == (0, 0)
    assert costs["maft"]["answering"] == 2400 / 60
    study[0].ledger(1).unlink()
    assert [spent(group)["runs"] for group in groups_of(*study)] == [2, 1, 2]


def test_the_caption_says_what_the_error_is(study: list[RunDir], make_run: MakeRun) -> None:
    one = make_run("one", upto=1, model={"path": "/models/naïve-β_2"})
    several, alone = (report_of(*runs).methods[0].latex().partition("caption")[2] for runs in (study, [one]))
    assert "$\\pm$ standard error over evaluation problems, their population standard deviation over the" in several
    assert "of one run, not how far runs differ. Iterations: 0, 1; runs each: 2." in several
    assert "how many there are. Iterations: 1; runs each: 1." in alone and r"naïve-β\_2" in alone


PHI = "Phi-3-mini-128k-instruct"


@pytest.mark.parametrize(
    ("model", "task", "method", "t", "more", "value"),
    [
        ("Meta-Llama-3-8B-Instruct", "gsm8k", "maft", 1, {}, 0.886),
        ("mistralai/Mistral-7B-Instruct-v0.2", "math", "maft", 5, {}, 0.282),
        (PHI, "math", "maft", 1, {"levels": [3, 2, 1]}, 0.588),
        (PHI, "arithmetic", "debate", 0, {}, 0.962),
        # One answer is the same however many could have debated; a majority is not, but has one round.
        (PHI, "math", "base", 0, {"debate": {"agents": 5, "rounds": 3}}, 0.456),
        (PHI, "math", "majority", 0, {"debate": {"agents": 3, "rounds": 3}}, 0.472),
        ("micro", "arithmetic", "maft", 1, {}, None),
        ("Hermes-2-Pro-Llama-3-8B", "math", "maft", 1, {}, None),
        (PHI, "math", "maft", 6, {}, None),
        ("Meta-Llama-3-8B", "math", "star", 1, {}, None),
        (PHI, "mmlu", "maft", 1, {}, None),
        (PHI, "math", "maft", 1, {"levels": [1, 2, 3, 4, 5]}, None),
        (PHI, "math", "majority", 0, {"debate": {"agents": 5, "rounds": 2}}, None),
    ],
)
def test_the_paper_is_quoted_only_where_it_speaks(
    make_run: MakeRun, model: str, task: str, method: str, t: int, more: dict, value: float | None
) -> None:
    more = dict(more)
    asked = {"name": task} | ({"levels": more.pop("levels")} if "levels" in more else {})
    run = read_run(make_run("a", upto=0, method=method, model={"path": model}, task=asked, problems=4, **more).root)
    assert published(run, t) == (None if value is None else pytest.approx(value))


def test_where_the_paper_has_nothing_a_line_says_so(make_run: MakeRun) -> None:
    report = report_of(make_run("a", upto=1), make_run("b", upto=1, method="star"), reference=True)
    assert [line.partition(" for ")[0] for line in report.missing] == ["the paper has no values"]
    assert not any("paper" in table.header for table in [*report.tables(), *report.methods])


def test_a_table_in_every_form() -> None:
    table = Table("T_1", ("name", "value"), (("a|b [bold]", "1.00"), ("naïve β 中", "± 2*")), "50 %.")
    assert table.plain().splitlines() == [
        "T_1",
        "name        value",
        "----------  -----",
        "a|b [bold]   1.00",
        "naïve β 中    ± 2*",
        "50 %.",
    ]
    assert Table("Empty", ("x", "y"), ()).plain() == "Empty\nx  y\n-  -"
    lines = table.markdown().splitlines()
    assert lines[:3] == ["| name | value |", "|:--|--:|", "| a\\|b [bold] | 1.00 |"] and lines[-1] == "50 %."
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    console.print(table.rich())
    assert all(text in console.file.getvalue() for text in ("a|b [bold]", "T_1", "50 %."))
    lines = table.latex().splitlines()
    assert lines[0].startswith("% needs booktabs; for accents [T1]{fontenc}; for other scripts lualatex")
    assert "\\caption{T\\_1. 50 \\%.}" in lines and "\\begin{tabular}{lr}" in lines
    assert "naïve β 中 & $\\pm$ 2* \\\\" in lines


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
