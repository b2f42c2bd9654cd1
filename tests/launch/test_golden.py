"""Batch scripts as sbatch gets them, kept whole: any change of them has to be looked at.

After a change that is meant, write them anew and read the difference::

    HPCMAF_WRITE_GOLDEN=1 pytest tests/launch/test_golden.py && git diff tests/launch/golden
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import Profile, load_profile
from hpcmaf.launch.slurm.preview import preview
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import build_plan

GOLDEN = Path(__file__).parent / "golden"
RUN = Path("/projects/debates/five agents")

# Everything an edited h100 profile may hold; Python's path must not be this machine's.
SITE = (
    "slurm.python=/opt/hpcmaf/bin/python",
    "slurm.account=lab-42",
    "slurm.partition=gpu",
    "slurm.qos=long",
    "slurm.constraint=h100&ib",
    "slurm.exclude=[node013]",
    "slurm.setup=[module load cuda/12.8, 'export NCCL_DEBUG=WARN']",
    "slurm.max_array_size=3",
    "slurm.generation.at_once=4",
    "slurm.merge.partition=cpu",
    "slurm.options={mail-type: FAIL, comment: five agents}",
    "generation.problems_per_shard=100",
)


def script(profile: Profile, stage: str, gate: bool, number: int, root: Path = RUN) -> str:
    """Of a stage's jobs, or of the gates behind it."""
    shape = ["task.train=500", "task.eval=500", "debate.agents=3"]
    problems = {split: {"count": 500, "sha256": "0" * 64} for split in ("train", "eval")}
    plan = build_plan(load_recipe(overrides=shape, iterations=2), profile, problems, "base")
    found = preview(RunDir(root), plan, profile)
    return [found.script(job) for job in found.submitted if job.stage == stage and job.gate is gate][number]


def check(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.sh"
    if os.environ.get("HPCMAF_WRITE_GOLDEN"):
        path.write_text(text)
    assert path.exists(), f"{path} is missing; this module's docstring says how to write it"
    assert text == path.read_text()


TWO_NODES = ("slurm.finetuning.nodes=2", "slurm.finetuning.gpus=8", "finetuning.processes=8")


@pytest.mark.parametrize(
    ("name", "stage", "gate", "number", "site"),
    [
        ("debate-window-0", "it01/debate", False, 0, ()),
        ("debate-window-1", "it01/debate", False, 1, ()),
        ("finetune-two-nodes", "it01/finetune", False, 0, TWO_NODES),
        ("finetune-four-agents-gres", "it02/finetune", False, 0, ("slurm.agents_per_job=4", "slurm.gpu_option=gres")),
        ("merge", "it01/merge", False, 0, ()),
        ("gate", "it01/debate", True, 0, ()),
    ],
)
def test_a_script_of_each_kind(name: str, stage: str, gate: bool, number: int, site: tuple[str, ...]) -> None:
    check(f"h100-{name}", script(load_profile("h100", [*SITE, *site]), stage, gate, number))


def test_a_folder_with_quotes_and_dollars() -> None:
    profile = load_profile("test-cluster", ["slurm.python=/opt/python", "slurm.max_array_size=1001"])
    odd = RUN.parent / 'it\'s $HOME; "x" & ünï'
    check("test-cluster-odd-folder", script(profile, "it01/merge", False, 0, odd))
    assert len(list(GOLDEN.iterdir())) == 7, "a file that belongs to no test"
