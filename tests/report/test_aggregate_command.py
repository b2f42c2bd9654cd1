"""``hpcmaf aggregate`` as it is called."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from hpcmaf.cli.aggregate import command
from tests.report.conftest import MakeRun


def test_prints_the_table_and_writes_the_files(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run with spaces", upto=1, planned=2)
    result = CliRunner().invoke(command, [str(run.root), "--out", str(tmp_path / "my report")], catch_exceptions=False)
    assert result.exit_code == 0
    assert "run with spaces: accuracy" in result.stdout
    assert "iterations 2: not evaluated (yet)" in result.stdout
    assert "\x1b" not in result.stdout and "│" not in result.stdout  # not a terminal: plain columns
    assert "report.html" in result.stderr
    assert (tmp_path / "my report" / "report.md").is_file()


def test_finds_runs_by_name_and_copies_by_path(make_run: MakeRun, tmp_path: Path, monkeypatch) -> None:
    make_run("mine", upto=0)
    make_run("copied", upto=0, folder=tmp_path)
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(command, ["mine", "copied", "--out", "out"], catch_exceptions=False)
    assert all(Path("out/report.csv").read_text().count(f"\n{name},") == 3 for name in ("mine", "copied"))
