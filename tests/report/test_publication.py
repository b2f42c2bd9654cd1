"""What goes into a paper: the table in LaTeX, its marks, the paper's own figures, the cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmaf.report import aggregate
from hpcmaf.report.latex import escape
from hpcmaf.report.methods import cost_rows, ranks
from hpcmaf.report.reference import published
from hpcmaf.rundir import RunDir

MakeRun = Callable[..., RunDir]


@pytest.fixture
def study(make_run: MakeRun) -> list[Path]:
    model = {"path": "microsoft/Phi-3-mini-128k-instruct"}
    made = [
        make_run(f"{method}-{seed}", seed=seed, upto=upto, gain=gain, method=method, model=model, problems=60)
        for seed in (0, 1)
        for method, gain, upto in (("maft", 0.6, 1), ("maft-no-critic", 0.3, 1), ("debate", 0, 0))
    ]
    return [run.root for run in made]


def test_table_for_a_paper(study: list[Path], tmp_path: Path) -> None:
    report = aggregate(study, tmp_path, baseline="debate", reference=True)
    text = (tmp_path / "report.tex").read_text()
    lines = text.splitlines()
    assert [text.count(f"\\{rule}") for rule in ("toprule", "midrule", "bottomrule")] == [1, 1, 1]
    assert text.count("{") == text.count("}")
    columns = re.search(r"begin\{tabular\}\{(\w+)\}", text).group(1)
    body = [line for line in lines if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.count("&") + 1 for line in body} == {len(columns)}
    rows = {line.split(" &")[0]: line for line in body}
    best, second, worst = (rows[name] for name in ("maft", "maft-no-critic", "debate"))
    assert "textbf" in best and "underline" in second and "text" not in worst
    # The paper's own, after as many iterations.
    assert "& 99.40" in best and "& 98.20" in second and "& 96.20" in worst
    tested = {row.group.line: row.tested for row in report.rows}
    for name, line in rows.items():
        starred = tested.get(name) is not None and tested[name].p_holm < 0.05
        assert ("$^{*}$" in line) == starred
    assert "$^{*}$" in best
    # The same figures in the terminal's table, and the spread over seeds.
    (row,) = (row for row in report.rows if row.group.line == "maft")
    shown = [f"{100 * row.point.value:.2f}", f"{100 * row.point.se:.2f}", f"{100 * row.point.spread:.2f}"]
    assert all(value in report.text for value in shown) and shown[0] in best
    assert "no-critic" in report.text and "p (Holm)" in report.text


def test_cost_is_what_improving_took(study: list[Path], tmp_path: Path) -> None:
    report = aggregate(study, tmp_path)
    costs = {group.line: cost_rows(group) for group in report.groups}
    # Debates of iteration 1: two rows of 1000 and 200 tokens; finetuning: two of 70.
    assert (costs["maft"]["generated"], costs["maft"]["trained"], costs["maft"]["wall_seconds"]) == (2400, 140, 6.0)
    assert (costs["debate"]["generated"], costs["debate"]["trained"]) == (0, 0)
    # Evaluation: generator-0 alone, all generators, everybody.
    answering = [costs["maft"][measure] for measure in ("one_answer", "majority", "debate")]
    assert answering == [1200 / 60, 1200 / 60, 2400 / 60]
    RunDir(study[0]).ledger(1).unlink()
    again = aggregate(study, tmp_path)
    assert {group.line: cost_rows(group) for group in again.groups}["maft"]["runs"] == 1


def test_places() -> None:
    assert ranks([1.0, 3.0, 2.0, 3.0]) == [0, 1, 2, 1]
    assert ranks([]) == [] and ranks([5.0]) == [1]


@given(st.text())
def test_any_name_is_harmless_latex(text: str) -> None:
    plain = escape(text)
    assert plain.isascii() and "\n" not in plain
    for command in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", r"\textbar{}"):
        plain = plain.replace(command, "")
    for letter in "&%#_$":
        plain = plain.replace("\\" + letter, "")
    assert not set(re.sub(r"\$(\\cdot|\\times|\\to|<|>)\$|\\[{}]", "", plain)) & set("&%#_~^\\$")


def test_the_paper_is_quoted_only_where_it_speaks() -> None:
    assert published("Meta-Llama-3-8B-Instruct", "gsm8k", "maft", 1) == pytest.approx(0.886)
    assert published("Mistral-7B-Instruct-v0.2", "math", "maft", 5) == pytest.approx(0.282)
    assert published("Phi-3-mini-128k-instruct", "arithmetic", "debate", 0) == pytest.approx(0.962)
    for case in (
        ("micro", "arithmetic", "maft", 1),
        ("Phi-3-medium", "math", "maft", 1),
        ("Phi-3-mini", "math", "maft", 6),
        ("Phi-3-mini", "gsm8k", "maft", 2),
        ("Phi-3-mini", "gsm8k", "debate", 1),
        ("Meta-Llama-3-8B", "math", "star", 1),
        ("Phi-3-mini", "mmlu", "maft", 1),
        (None, "math", "maft", 1),
    ):
        assert published(*case) is None
