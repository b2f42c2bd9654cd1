"""The scripts of slurm/ as plain bash runs them; tests/slurm has them in the hands of sbatch."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

SLURM = Path(__file__).parents[2] / "slurm"
SANDBOX = SLURM.parent / "hpcmaf/tasks/sandbox.sh"
SCRIPTS = [SLURM / f"{name}.sh" for name in ("iterate", "onenode", "stage")]
SHARED = SLURM / "hpcmaf.sh"
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)


def bash(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "HPCMAF"))}
    return subprocess.run(
        ["bash", *map(str, words)], cwd=cwd, env=kept | environment, check=False, capture_output=True, text=True,
        timeout=30,
    )  # fmt: skip


def program(path: Path, body: str = r'printf "%s\n" "$0" "$@"') -> Path:
    """A program; left out, one that prints what it is called with, a word per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)
    return path


def spooled(tmp_path: Path, script: Path = SLURM / "stage.sh", command: str = "") -> tuple[Path, dict[str, str]]:
    """A script where slurmd puts its copy, far from what the scripts share, and the environment of its job.

    ``command`` is what scontrol says it was submitted as.
    """
    copy = tmp_path / "spool/job00007/slurm_script"
    copy.parent.mkdir(parents=True)
    shutil.copy(script, copy)
    # An array's master is all of its tasks to scontrol.
    record = f"echo JobId=7; echo '   Command={command}'; echo '   WorkDir=/'\n"
    scontrol = program(tmp_path / "programs/scontrol", record * 2)
    environment = {"PATH": f"{scontrol.parent}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path)}
    return copy, environment | {"HPCMAF_PYTHON": str(program(tmp_path / "python")), "SLURM_JOB_ID": "7"}


def test_there_are_three_scripts_and_what_they_share() -> None:
    assert sorted(SLURM.glob("*.sh")) == sorted([*SCRIPTS, SHARED])
    found = {
        re.search(r"^find_shared\(\) \{.*?^\}", script.read_text(), re.DOTALL | re.MULTILINE) for script in SCRIPTS
    }
    assert len({match[0] for match in found if match}) == 1


@pytest.mark.parametrize("script", [*SCRIPTS, SHARED, SANDBOX], ids=lambda path: path.name)
def test_shellcheck_and_bash_find_nothing(script: Path) -> None:
    assert bash("-n", script, cwd=SLURM).stderr == ""
    shellcheck = shutil.which("shellcheck")
    assert shellcheck, "shellcheck is needed for this test (apt-get install shellcheck)"
    found = subprocess.run([shellcheck, "-x", script], check=False, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout


@each_script
def test_help_needs_nothing_but_bash(script: Path, tmp_path: Path) -> None:
    copy, environment = spooled(tmp_path, script, f"{script} --help")
    for path, variables in ((script, {"PATH": "/usr/bin:/bin"}), (copy, environment)):
        helped = bash(path, "--profile", "x", "--help", cwd=tmp_path, **variables)
        assert helped.returncode == 0 and helped.stderr == ""
        assert helped.stdout.startswith("Usage: sbatch ") and f"slurm/{script.name}" in helped.stdout
        assert max(map(len, helped.stdout.splitlines())) <= 110


def test_arguments_go_on_to_submit_as_they_are(tmp_path: Path) -> None:
    """The profile may stand in the environment."""
    python = str(program(tmp_path / "my python"))
    named = ["--profile", "my site.yaml", "--set", "name=it's *", "--iters", "5"]
    for words, environment in ((named, {}), ([], {"HPCMAF_PROFILE": "h100"}), (["--profile=x"], {})):
        done = bash(SLURM / "iterate.sh", *words, cwd=tmp_path, HPCMAF_PYTHON=python, **environment)
        assert done.stdout.splitlines() == [python, "-m", "hpcmaf", "submit", *words], done.stderr


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
    trap = "trap 'echo stopping; sleep 0.3; echo stopped; exit 130' TERM\necho up\nwhile :; do sleep 0.05; done"
    python = program(tmp_path / "python", trap)
    program(tmp_path / "bin/scontrol", '[[ $1 == show ]] || echo "scontrol $*"')
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    environment = os.environ | {"HPCMAF_PYTHON": str(python), "SLURM_JOB_ID": "7", "PATH": path}
    words = ["bash", SLURM / "onenode.sh"]
    script = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
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
    words = (repository / "slurm/stage.sh", "score", "r", "0")
    for environment, expected in ways:
        done = bash(*words, cwd=submitted, PATH=f"{path}:/usr/bin:/bin", **environment)
        assert done.stdout.splitlines()[0] == str(expected), done.stderr
        assert done.stdout.splitlines()[-3:] == ["stage", "r", "0/score"]
        expected.unlink()
    done = bash(*words, cwd=submitted, PATH="/usr/bin:/bin")
    assert done.returncode == 12 and done.stderr.startswith("error: hpcmaf: not found; set HPCMAF_PYTHON")


@pytest.mark.parametrize("where", ["", "slurm"])
def test_a_spooled_copy_finds_the_rest_from_where_it_was_submitted(where: str, tmp_path: Path) -> None:
    copy, environment = spooled(tmp_path)
    lost = bash(copy, "debate", "r", "2", cwd=tmp_path, **environment)
    assert lost.returncode == 12 and lost.stderr == "error: slurm/hpcmaf.sh: not found; submit from the repository\n"
    environment |= {"SLURM_SUBMIT_DIR": str(SLURM.parent / where), "SLURM_ARRAY_TASK_ID": "3"}
    done = bash(copy, "debate", "r", "2", cwd=tmp_path, **environment)
    assert done.stdout.splitlines()[1:] == ["-m", "hpcmaf", "stage", "r", "2/debate", "3"], done.stderr


@pytest.mark.parametrize(
    "folder",
    ["n.shah", "my.shared dir", "a.sh b", "stage.sh", "stage.sh debate", "a link", "two  blanks", "[x]* $HOME"],
)
@pytest.mark.parametrize("arguments", [" debate my run.sh  2 --task 0", ""])
def test_a_spooled_copy_finds_the_rest_whatever_the_folders_are_called(
    folder: str, arguments: str, tmp_path: Path
) -> None:
    site = tmp_path / folder / "slurm"
    if folder == "a link":
        site.mkdir(parents=True)
        (site / "stage.sh").symlink_to(SLURM / "stage.sh")
    else:
        shutil.copytree(SLURM, site)
    copy, environment = spooled(tmp_path, command=f"{site}/stage.sh{arguments}")
    for script in (copy, site / "stage.sh"):
        done = bash(script, "debate", "r", "2", cwd=tmp_path, **environment)
        assert done.stdout.splitlines()[-2:] == ["r", "2/debate"], done.stderr


@pytest.mark.parametrize(
    ("script", "words", "environment", "message"),
    [
        ("iterate.sh", [], {}, "name your site with --profile"),
        ("stage.sh", ["merge", "r"], {}, "give a stage, a run and an iteration"),
        ("stage.sh", ["merge", "r", "1", "2"], {}, "give a stage, a run and an iteration"),
        ("stage.sh", ["merge", "r", "1", "--task"], {}, "--task: needs a task"),
        ("stage.sh", ["merge", "r", "1", "--tusk=1"], {}, "--tusk=1: no such option"),
        ("stage.sh", ["eval", "r", "1", "--task=1"], {"SLURM_ARRAY_TASK_ID": "1"}, "the job array chooses the task"),
    ],
)
def test_mistakes_are_one_line(
    script: str, words: list[str], environment: dict[str, str], message: str, tmp_path: Path
) -> None:
    done = bash(SLURM / script, *words, cwd=tmp_path, HPCMAF_PYTHON="python", **environment)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1
