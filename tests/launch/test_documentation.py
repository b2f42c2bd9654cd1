"""slurm/README.md tells of every key and every cause there is, of no others, and the truth."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from hpcmaf.cli.plan import command as plan_command
from hpcmaf.config.profile import Finetuning, Generation, Profile, load_profile
from hpcmaf.config.slurm import Resources, Slurm
from hpcmaf.launch.slurm.causes import KINDS, MOST_ATTEMPTS, RULES, Rule

SLURM = Path(__file__).parents[2] / "slurm"
TEXT = (SLURM / "README.md").read_text()
SECTIONS = {
    "The profile": Profile,
    "generation": Generation,
    "finetuning": Finetuning,
    "slurm": Slurm,
    "Each of slurm.generation, slurm.finetuning, slurm.merge, slurm.gate": Resources,
}
PROFILES = sorted(path.stem for path in (SLURM / "profiles").glob("*.yaml"))


def rows(heading: str) -> dict[str, list[str]]:
    """The first table below a heading: its first column, to the others."""
    below = re.split(rf"^#+ {re.escape(heading)}$", TEXT, flags=re.MULTILINE)
    assert len(below) == 2, heading
    lines = re.split(r"^#", below[1], flags=re.MULTILINE)[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    assert len({row[0] for row in cells}) == len(cells), f"{heading}: a row twice"
    return {row[0].strip("`"): row[1:] for row in cells}


def written(default: Any) -> str:
    """A default as the table writes it."""
    if default is None or default == "":
        return "-"
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_is_told_of_with_its_default(heading: str) -> None:
    model, told = SECTIONS[heading], rows(heading)
    assert sorted(told) == sorted(model.model_fields)
    for key, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if key == "name":
            assert told[key][0] == "the file's"
        elif isinstance(default, BaseModel):
            assert told[key][0] == ""
        else:
            assert told[key][0] == written(default), key
        assert told[key][1], f"{key}: not a word on what it does"


def next_attempt(rule: Rule) -> list[str]:
    if rule.retry is False:
        return ["no", "-", "-"]
    words = "with half the batch" if rule.halve else "on another node" if rule.avoid else "as before"
    return ["if it got further" if rule.retry == "progress" else "yes", "yes" if rule.counted else "no", words]


def test_every_cause_is_told_of_with_its_rule() -> None:
    told = rows("When something fails")
    assert list(told) == list(RULES)
    for kind, rule in RULES.items():
        found = told[kind][1:]
        if kind == "killed":
            found[2] = found[2].removesuffix("; with half the batch the second time")
        assert found == next_attempt(rule), kind
    assert f"all of them together with {MOST_ATTEMPTS}." in TEXT
    assert {kind: told[0].strip("`") for kind, told in rows("What a task leaves").items()} == KINDS


def test_every_profile_is_told_of_and_is_valid_as_it_ships() -> None:
    assert sorted(rows("What to edit for your site")) == PROFILES
    for name in PROFILES:
        assert load_profile(name).name == name
    assert all((SLURM / name).exists() for name in re.findall(r"slurm/([a-z]+\.sh)", TEXT))


@pytest.mark.parametrize("name", [name for name in PROFILES if load_profile(name).launcher == "slurm"])
def test_every_profile_of_a_cluster_plans(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    words = ["--profile", name, "--set", "task.train=500", "--set", "task.eval=500"]
    output = CliRunner().invoke(plan_command, words, catch_exceptions=False).output
    site = load_profile(name)
    assert (" GPU-hours if each job" in output) is (site.generation.device == "cuda")
    if site.generation.device == "cuda":
        assert site.finetuning.processes == site.cluster.finetuning.gpus
        assert site.generation.tensor_parallel == site.cluster.generation.gpus
