"""The scripts of slurm/ as plain bash runs them; tests/slurm has them in the hands of sbatch."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from hpcmaf.config.profile import load_profile
from hpcmaf.config.recipe import load_recipe
from hpcmaf.launch.byhand import find_stage
from hpcmaf.run.plan import Plan, build_plan

SLURM = Path(__file__).parents[2] / "slurm"
SCRIPTS = sorted(path for path in SLURM.glob("*.sh") if path.name != "hpcmaf.sh")
STAGES = ("debate", "merge", "finetune", "eval", "score")
# Says what it was called with, a word per line.
ECHO = '#!/bin/bash\nprintf "%s\\n" "$0" "$@"\n'


def bash(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "HPCMAF"))}
    return subprocess.run(
        ["bash", *map(str, words)],
        cwd=cwd,
        env=kept | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ECHO)
    path.chmod(0o755)
    return path


def spooled(name: str, tmp_path: Path) -> Path:
    """A script where slurmd puts its copy, far from what it shares with the others."""
    copy = tmp_path / "spool" / "job00007" / "slurm_script"
    copy.parent.mkdir(parents=True)
    shutil.copy(SLURM / name, copy)
    return copy


def test_there_is_a_script_for_the_loop_and_one_for_each_stage() -> None:
    assert {path.stem for path in SCRIPTS} == {"iterate", "onenode", *STAGES}


@pytest.mark.parametrize("script", [*SCRIPTS, SLURM / "hpcmaf.sh"], ids=lambda path: path.name)
def test_shellcheck_and_bash_find_nothing(script: Path) -> None:
    assert bash("-n", script, cwd=SLURM).stderr == ""
    shellcheck = shutil.which("shellcheck")
    assert shellcheck, "shellcheck is needed for this test (apt-get install shellcheck)"
    found = subprocess.run([shellcheck, "-x", script], check=False, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_needs_nothing_but_bash(script: Path, tmp_path: Path) -> None:
    for copy in (script, spooled(script.name, tmp_path)):
        asked = bash(copy, "--profile", "x", "--help", cwd=tmp_path, PATH="/usr/bin:/bin")
        assert asked.returncode == 0 and asked.stderr == ""
        assert asked.stdout.startswith("Usage: sbatch ") and f"slurm/{script.name}" in asked.stdout
        assert max(map(len, asked.stdout.splitlines())) <= 110


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_headers_hold_no_settings_of_a_site(script: Path) -> None:
    options = re.findall(r"^#SBATCH --([a-z-]+)", script.read_text(), flags=re.MULTILINE)
    neutral = {"job-name", "output", "open-mode", "nodes", "ntasks", "cpus-per-task", "requeue", "signal"}
    assert options and set(options) <= neutral
    assert "set -Eeuo pipefail" in script.read_text()


def test_arguments_go_on_to_submit_as_they_are(tmp_path: Path) -> None:
    words = ["--profile", "my site.yaml", "--set", "name=it's *", "--iters", "5"]
    python = program(tmp_path / "my python")
    told = bash(SLURM / "iterate.sh", *words, cwd=tmp_path, HPCMAF_PYTHON=str(python))
    assert told.stdout.splitlines() == [str(python), "-m", "hpcmaf", "submit", *words], told.stderr


def test_one_allocation_runs_the_loop_with_a_task_per_gpu(tmp_path: Path) -> None:
    """Unless a profile is named, which says itself how many."""
    python = program(tmp_path / "python")
    own, four = ["--profile", "onenode", "--set-profile"], {"SLURM_GPUS_ON_NODE": "4"}
    for given, gpus, added in (
        (["--recipe", "a b"], four, [*own, "jobs=4"]),
        (["--recipe", "a b"], {}, [*own, "jobs=1"]),
        (["--profile", "x.yaml"], four, []),
    ):
        done = bash(SLURM / "onenode.sh", *given, cwd=tmp_path, HPCMAF_PYTHON=str(python), **gpus)
        assert done.stdout.splitlines() == [str(python), "-m", "hpcmaf", "submit", *added, *given]


def test_an_allocation_that_ends_passes_it_on_and_goes_back_into_the_queue(tmp_path: Path) -> None:
    """Slurm warns the script alone; hpcmaf stops in order, and only then is the job requeued."""
    python = tmp_path / "python"
    python.write_text("#!/bin/bash\ntrap 'echo stopping; sleep 0.3; echo stopped; exit 130' TERM\necho up\n"
                      "while :; do sleep 0.05; done\n")  # fmt: skip
    python.chmod(0o755)
    (program(tmp_path / "bin" / "scontrol")).write_text('#!/bin/bash\n[[ $1 == show ]] || echo "scontrol $*"\n')
    environment = os.environ | {"HPCMAF_PYTHON": str(python), "SLURM_JOB_ID": "7",
                                "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}  # fmt: skip
    script = subprocess.Popen(
        ["bash", SLURM / "onenode.sh"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert script.stdout is not None and script.stdout.readline() == "up\n"
    script.send_signal(signal.SIGUSR2)
    assert script.stdout.read().splitlines() == ["stopping", "stopped", "scontrol requeue 7"]
    assert script.wait(10) == 130


def test_hpcmaf_is_found_in_this_order(tmp_path: Path) -> None:
    submitted, repository, path = tmp_path / "here", tmp_path / "repository", tmp_path / "bin"
    shutil.copytree(SLURM, repository / "slurm")
    submitted.mkdir()
    ways = [
        ({"HPCMAF_PYTHON": str(program(tmp_path / "python"))}, tmp_path / "python"),
        ({}, program(submitted / ".venv/bin/hpcmaf")),
        ({}, program(repository / ".venv/bin/hpcmaf")),
        ({}, program(path / "hpcmaf")),
    ]
    for environment, expected in ways:
        words = (repository / "slurm/score.sh", "r", "0")
        told = bash(*words, cwd=submitted, PATH=f"{path}:/usr/bin:/bin", **environment)
        assert told.stdout.splitlines()[0] == str(expected), told.stderr
        assert told.stdout.splitlines()[-3:] == ["stage", "r", "0/score"]
        expected.unlink()
    told = bash(*words, cwd=submitted, PATH="/usr/bin:/bin")
    assert told.returncode == 12 and told.stderr.startswith("error: hpcmaf: not found; set HPCMAF_PYTHON")


@pytest.mark.parametrize("where", ["", "slurm"])
def test_a_spooled_copy_finds_the_rest_from_where_it_was_submitted(where: str, tmp_path: Path) -> None:
    copy, python = spooled("debate.sh", tmp_path), program(tmp_path / "python")
    environment = {"SLURM_SUBMIT_DIR": str(SLURM.parent / where), "HPCMAF_PYTHON": str(python)}
    told = bash(copy, "r", "2", cwd=tmp_path, SLURM_ARRAY_TASK_ID="3", **environment)
    assert told.stdout.splitlines()[1:] == ["-m", "hpcmaf", "stage", "r", "2/debate", "3"], told.stderr


def test_a_spooled_copy_asks_slurm_what_it_is_a_copy_of(tmp_path: Path) -> None:
    copy, python, programs = spooled("debate.sh", tmp_path), program(tmp_path / "python"), tmp_path / "programs"
    scontrol = program(programs / "scontrol")
    scontrol.write_text(f"#!/bin/bash\necho JobId=7\necho '   Command={SLURM}/debate.sh r 2'\n")
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "HPCMAF_PYTHON": str(python), "SLURM_JOB_ID": "7"}
    told = bash(copy, "r", "2", cwd=tmp_path, SLURM_SUBMIT_DIR=str(tmp_path), **environment)
    assert told.stdout.splitlines()[-2:] == ["r", "2/debate"], told.stderr
    lost = bash(copy, "r", "2", cwd=tmp_path, SLURM_SUBMIT_DIR=str(tmp_path))
    assert lost.returncode == 12 and lost.stderr == "error: slurm/hpcmaf.sh: not found; submit from the repository\n"


@pytest.mark.parametrize("folder", ["n.shah", "my.shared dir", "a.sh b", "debate.sh", "debate.sh r", "plain"])
@pytest.mark.parametrize("arguments", ["r 2", "my run.sh  2 --task 0", ""])
def test_a_spooled_copy_finds_the_rest_whatever_the_folders_are_called(
    folder: str, arguments: str, tmp_path: Path
) -> None:
    site = tmp_path / folder / "slurm"
    shutil.copytree(SLURM, site)
    copy, python, scontrol = (
        spooled("debate.sh", tmp_path),
        program(tmp_path / "python"),
        program(tmp_path / "bin/scontrol"),
    )
    # An array's master is all of its tasks to scontrol.
    record = (
        f"echo JobId=7; echo '   Command={site}/debate.sh{f' {arguments}' if arguments else ''}'; echo '   WorkDir=/'\n"
    )
    scontrol.write_text(f"#!/bin/bash\n{record * 2}")
    environment = {"PATH": f"{scontrol.parent}:/usr/bin:/bin", "HPCMAF_PYTHON": str(python), "SLURM_JOB_ID": "7"}
    told = bash(copy, "r", "2", cwd=tmp_path, SLURM_SUBMIT_DIR=str(tmp_path), **environment)
    assert told.stdout.splitlines()[-2:] == ["r", "2/debate"], told.stderr


def test_scripts_may_be_reached_by_symbolic_links(tmp_path: Path) -> None:
    python, scontrol = program(tmp_path / "python"), program(tmp_path / "bin/scontrol")
    link = tmp_path / "my links" / "debate.sh"
    link.parent.mkdir()
    link.symlink_to(SLURM / "debate.sh")
    told = bash(link, "r", "2", cwd=tmp_path, HPCMAF_PYTHON=str(python))
    assert told.stdout.splitlines()[-2:] == ["r", "2/debate"], told.stderr
    scontrol.write_text(f"#!/bin/bash\necho '   Command={link} r 2'\n")
    environment = {"PATH": f"{scontrol.parent}:/usr/bin:/bin", "HPCMAF_PYTHON": str(python), "SLURM_JOB_ID": "7"}
    told = bash(spooled("debate.sh", tmp_path), "r", "2", cwd=tmp_path, SLURM_SUBMIT_DIR=str(tmp_path), **environment)
    assert told.stdout.splitlines()[-2:] == ["r", "2/debate"], told.stderr


def test_a_finetuning_job_of_several_nodes_starts_on_each(tmp_path: Path) -> None:
    srun = program(tmp_path / "programs/srun")
    environment = {"PATH": f"{srun.parent}:/usr/bin:/bin", "HPCMAF_PYTHON": "python", "SLURM_JOB_NUM_NODES": "2"}
    told = bash(SLURM / "finetune.sh", "r", "1", "--task", "critic-1", cwd=tmp_path, **environment)
    words = told.stdout.splitlines()
    assert words[0] == str(srun) and "--ntasks-per-node=1" in words
    assert words[-7:] == ["python", "-m", "hpcmaf", "stage", "r", "1/finetune", "critic-1"]


@pytest.mark.parametrize(
    ("script", "words", "environment", "said"),
    [
        ("iterate.sh", [], {}, "name your site with --profile"),
        ("merge.sh", ["r"], {}, "give a run and an iteration"),
        ("merge.sh", ["r", "1", "2"], {}, "give a run and an iteration"),
        ("merge.sh", ["r", "1", "--task"], {}, "--task: needs a task"),
        ("merge.sh", ["r", "1", "--tusk=1"], {}, "--tusk=1: no such option"),
        ("eval.sh", ["r", "1", "--task=1"], {"SLURM_ARRAY_TASK_ID": "1"}, "the job array says which task"),
    ],
)
def test_mistakes_are_one_line(
    script: str, words: list[str], environment: dict[str, str], said: str, tmp_path: Path
) -> None:
    told = bash(SLURM / script, *words, cwd=tmp_path, **environment)
    assert told.returncode == 2 and told.stdout == ""
    assert told.stderr.startswith("error: ") and said in told.stderr and told.stderr.count("\n") == 1


def test_the_profile_may_stand_in_the_environment(tmp_path: Path) -> None:
    environment = {"HPCMAF_PYTHON": str(program(tmp_path / "python")), "HPCMAF_PROFILE": "h100"}
    told = bash(SLURM / "iterate.sh", cwd=tmp_path, **environment)
    assert told.stdout.splitlines()[-1] == "submit"
    told = bash(SLURM / "iterate.sh", "--profile=mine", cwd=tmp_path, **environment)
    assert told.stdout.splitlines()[-2:] == ["submit", "--profile=mine"]


def plan() -> Plan:
    problems = {split: {"count": 500, "sha256": ""} for split in ("train", "eval")}
    return build_plan(load_recipe(), load_profile(), problems, "")


@pytest.mark.parametrize("kind", STAGES)
def test_every_script_names_a_stage_that_plans_have(kind: str) -> None:
    assert find_stage(plan(), f"1/{kind}").id == f"it01/{kind}"
    assert f"run_stage {kind} " in (SLURM / f"{kind}.sh").read_text()


def test_all_scripts_look_for_the_rest_in_one_way() -> None:
    found = {re.search(r"^find_shared\(\) \{.*?^\}", script.read_text(), re.DOTALL | re.MULTILINE)[0] for script in SCRIPTS}
    assert len(found) == 1
