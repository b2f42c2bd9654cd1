"""A run that the first released version made, one iteration of the quickstart, is read by this one.

``old-run`` is what that version left, without models, logs and shards.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcmaf.cli import cli
from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import load_profile
from hpcmaf.errors import PlanChangedError

RUN = Path(__file__).with_name("old-run")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status"], ["done, 12/12 tasks", "0: 100.0%, 1: 62.5%"]),
        (["verify"], ["ok: "]),
        (["aggregate"], ["old: cost", "13,493"]),
        (["inspect", "it01/debate.h5"], ["problems     12", "3 agents x 2 rounds, with summaries"]),
        (
            ["inspect", "it01/eval.h5", "--problem", "arithmetic-20-6-17-10-25-13"],
            ["gold: -193", "summary for critic-2"],
        ),
    ],
)
def test_an_old_run_is_read(tmp_path: Path, words: list[str], said: list[str]) -> None:
    run = tmp_path / "old"
    shutil.copytree(RUN, run)
    verb, *rest = words
    where = run / rest.pop(0) if rest else run
    more = ["--out", str(tmp_path / "report")] if verb == "aggregate" else []
    result = CliRunner().invoke(cli, [verb, str(where), *rest, *more])
    assert result.exit_code == 0, result
    for line in said:
        assert line in result.output


def test_an_old_run_is_not_extended(tmp_path: Path) -> None:
    run = tmp_path / "old"
    shutil.copytree(RUN, run)
    words = ["plan", "--recipe", str(run / "recipe.yaml"), "--run", str(run), "--iters", "2"]
    result = CliRunner().invoke(cli, [*words, "--set-profile", "generation.problems_per_shard=120"])
    assert isinstance(result.exception, PlanChangedError)
    assert "planned by an earlier version of hpcmaf, which had no recipe." in str(result.exception)


def test_keys_that_are_new_leave_plans_as_they_were() -> None:
    """At its default a key stays out of plans (:func:`hpcmaf.files.yaml.added`), or no run begun before it resumes."""
    recipe = json.dumps(load_recipe().model_dump(mode="json"), sort_keys=True)
    assert hashlib.sha256(recipe.encode()).hexdigest().startswith("a108388cfabe5d1c"), recipe


@pytest.mark.parametrize(
    ("site", "named"),
    [
        ("", "fold_adapters, lookup_tokens"),
        ("launcher: slurm\nslurm: {chain: gated, avoid_failed_nodes: true}\n", ""),
        ("launcher: slurm\nslurm: {chain: presubmitted, partition: gpu}\n", "ignored: chain\n"),
    ],
)
def test_options_that_are_no_more_are_ignored_and_named_if_their_effect_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], site: str, named: str
) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(site or (RUN / "profile.yaml").read_text())
    assert (load_profile(str(path)).generation.problems_per_shard == 120) == (not site)
    said = capsys.readouterr().err
    assert said.count("\n") == (named != "") and said.startswith(f"{path}: " if named else "") and named in said
