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
from hpcmaf.run.plan import Plan, build_plan

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


def plan(profile: Profile, agents: int = 3) -> Plan:
    shape = ["task.train=500", "task.eval=500", f"debate.agents={agents}"]
    problems = {split: {"count": 500, "sha256": "0" * 64} for split in ("train", "eval")}
    return build_plan(load_recipe(overrides=shape, iterations=2), profile, problems, "base")


def scripts(profile: Profile, stage: str, kind: str = "", *, root: Path = RUN, agents: int = 3) -> list[str]:
    """Of a stage's jobs, or of the gates behind it."""
    found = preview(RunDir(root), plan(profile, agents), profile)
    return [found.script(job) for job in found.submitted if job.stage == stage and job.gate is (kind == "gate")]


def check(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.sh"
    if os.environ.get("HPCMAF_WRITE_GOLDEN"):
        path.write_text(text)
    assert path.exists(), f"{path} is missing; this module's docstring says how to write it"
    assert text == path.read_text()


def h100(*more: str) -> Profile:
    return load_profile("h100", [*SITE, *more])


@pytest.mark.parametrize("window", [0, 1])
def test_a_window_of_debates(window: int) -> None:
    profile = h100()
    check(f"h100-debate-window-{window}", scripts(profile, "it01/debate")[window])


def test_a_finetuning_job_of_several_nodes() -> None:
    profile = h100("slurm.finetuning.nodes=2", "slurm.finetuning.gpus=8", "finetuning.processes=8")
    check("h100-finetune-two-nodes", scripts(profile, "it01/finetune")[0])


def test_a_finetuning_job_of_several_agents() -> None:
    profile = h100("slurm.agents_per_job=4", "slurm.gpu_option=gres")
    check("h100-finetune-four-agents-gres", scripts(profile, "it02/finetune")[0])


def test_a_merge_without_gpus() -> None:
    profile = h100()
    check("h100-merge", scripts(profile, "it01/merge")[0])


def test_a_gate() -> None:
    profile = h100()
    check("h100-gate", scripts(profile, "it01/debate", "gate")[0])


def test_a_folder_with_quotes_and_dollars() -> None:
    profile = load_profile("test-cluster", ["slurm.python=/opt/python", "slurm.max_array_size=1001"])
    odd = RUN.parent / 'it\'s $HOME; "x" & ünï'
    check("test-cluster-odd-folder", scripts(profile, "it01/merge", root=odd)[0])


def test_every_golden_file_belongs_to_a_test() -> None:
    assert len(list(GOLDEN.iterdir())) == 7
