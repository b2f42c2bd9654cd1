"""``hpcmaf diversity`` on a run directory, and the report that shows what it wrote."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import hpcmaf.micro
from hpcmaf.cli.diversity import command
from hpcmaf.errors import DataError
from hpcmaf.report.groups import group_runs
from hpcmaf.report.recipes import diversity_table
from hpcmaf.report.records import read_run
from hpcmaf.run.directory import RunDir
from hpcmaf.store.schema import StoreInfo
from hpcmaf.store.writer import write_store
from tests.report.conftest import MakeRun, invent


def with_store(run: RunDir, t: int, text: str = "some words") -> None:
    """Put evaluation debates of which every answer has this text next to an iteration's metrics."""
    debates = [
        replace(debate, answers=tuple(tuple(replace(said, text=text) for said in turn) for turn in debate.answers))
        for debate in invent(40, (0.45, 0.6), 3, t)
    ]
    info = StoreInfo("arithmetic", "number", agents=3, rounds=2, iteration=t, split="eval", summaries=False)
    write_store(run.store(t, "eval"), info, debates)


@pytest.mark.slow
def test_measures_what_has_not_been_measured(make_run: MakeRun) -> None:
    run = make_run("run", upto=0, model={"path": "micro"}, method="debate")
    with_store(run, 0, text="5+36=41#41")
    arguments = [str(run.root), "--problems", "3", "--device", "cpu"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    value = json.loads(run.diversity(0).read_text())
    assert json.loads(result.stdout) == value["measures"] | {"run": str(run.root), "iteration": 0}
    assert (value["schema"], value["problems"], value["unscored"]) == ("hpcmaf-diversity/1", 3, 0)
    # All said the same, and are the same model.
    assert value["measures"]["embedding"]["value"] == pytest.approx(0, abs=1e-5)
    assert value["measures"]["kl_agents"]["value"] == 0
    read = read_run(run.root)
    assert read.missing == []
    table = diversity_table(group_runs([read])[0])
    assert table is not None and table.header[1:] == (
        "1 − consensus",
        "embedding",
        "NLL under others",
        "KL between agents",
        "KL to the base",
    )
    run.diversity(0).write_text("{}")
    assert CliRunner().invoke(command, arguments, catch_exceptions=False).stdout == ""
    assert run.diversity(0).read_text() == "{}"
    # Of several runs, those that lack it.
    other = make_run("other", upto=0, model={"path": "micro"}, method="debate")
    with_store(other, 0, text="5+36=41#41")
    result = CliRunner().invoke(command, [str(other.root), *arguments], catch_exceptions=False)
    assert json.loads(result.stdout)["run"] == str(other.root) and other.diversity(0).exists()


@pytest.mark.slow
def test_a_revision_of_the_base_is_the_one_that_measures(make_run: MakeRun, tmp_path: Path) -> None:
    """A hub id of which only one revision is on this machine: models, tokenizer and encoder are all of it."""
    hub = tmp_path / "hub" / "models--some--model"
    shutil.copytree(Path(hpcmaf.micro.__file__).parent / "weights", hub / "snapshots" / ("a" * 40))
    (hub / "refs").mkdir()
    (hub / "refs" / "v2").write_text("a" * 40)
    run = make_run("run", upto=0, model={"path": "some/model", "revision": "v2"}, method="debate")
    with_store(run, 0, text="5+36=41#41")
    command = [sys.executable, "-m", "hpcmaf", "diversity", str(run.root), "--problems", "2", "--device", "cpu"]
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(run.diversity(0).read_text())["measures"]["embedding"]["problems"] == 2


def test_says_what_is_not_there(make_run: MakeRun) -> None:
    run = make_run("run", upto=1)
    for store, arguments, message in (
        (False, [], "no eval.h5; iterations that have one: none yet"),
        (True, ["--iter", "0"], "no eval.h5 of iteration 0; iterations that have one: 1"),
        (True, [], "generator-0: the model of generator-0 is missing"),
    ):
        if store and not run.store(1, "eval").exists():
            with_store(run, 1)
        with pytest.raises(DataError, match=message) as caught:
            CliRunner().invoke(command, [str(run.root), *arguments], catch_exceptions=False)
        assert "\n" not in str(caught.value)
