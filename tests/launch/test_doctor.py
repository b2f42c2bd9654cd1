"""``hpcmaf doctor`` without a cluster: what it reads, what it concludes, and that it never breaks down."""

from __future__ import annotations

import errno
import fcntl
import getpass
import json
import os
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcmaf.cli.doctor import command
from hpcmaf.cores import visible_gpus
from hpcmaf.errors import PlatformError
from hpcmaf.launch import local
from hpcmaf.launch.doctor import Finding
from hpcmaf.launch.progress import Watcher
from tests.launch.conftest import SlurmSays
from tests.launch.made_runs import make_run

CONFIG = """
ClusterName             = test
SLURM_VERSION           = 22.05.8
MaxArraySize            = 1001
SchedulerParameters     = bf_interval=3,max_array_tasks=500
"""
# As sbatch 22.05 answers to --test-only.
SBATCH = r"""#!/bin/sh
refuse() { echo "allocation failure: $1" >&2; exit 1; }
grep -q "partition=lost" "$2" && refuse "Invalid partition name specified"
grep -q "account=theirs" "$2" && refuse "Invalid account or account/partition combination specified"
grep -q "gpus-per-node=h100:8" "$2" && refuse "Requested node configuration is not available"
echo "sbatch: Job 7 to start at 2026-11-30T07:56:50 using 1 processors on nodes node1 in partition main" >&2
"""


def doctor(*words: object) -> tuple[int, dict[str, list[Finding]]]:
    result = CliRunner().invoke(command, [*map(str, words), "--json"], catch_exceptions=False)
    found: dict[str, list[Finding]] = {}
    for value in json.loads(result.output):
        found.setdefault(value["area"], []).append(Finding(**value))
    return result.exit_code, found


def fails(number: int) -> Callable[..., None]:
    """A call of the system that fails."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def level(found: dict[str, list[Finding]], area: str) -> str:
    [finding] = found[area]
    return finding.level


def test_without_slurm_or_its_controller_it_is_a_finding(
    tmp_path: Path, slurm_says: SlurmSays, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, _ = make_run(tmp_path / "run")
    slurm_says(sbatch="", **dict.fromkeys(("srun", "squeue", "scancel", "scontrol", "sacct"), 1))
    code, found = doctor("--run", run.root)
    assert (code, level(found, "controller")) == (12, "problem")
    monkeypatch.setenv("PATH", str(tmp_path))
    run.plan.write_text("{")
    code, found = doctor("--run", run.root, "--probe")
    assert (code, level(found, "controller")) == (12, "problem")
    assert level(found, "run directory") == "problem" and "damaged" in found["run directory"][0].text
    assert "scontrol: not found" in found["controller"][0].text and "--profile local" in found["controller"][0].remedy


@pytest.fixture
def small_cluster(tmp_path: Path, slurm_says: SlurmSays) -> None:
    """Clients of a small cluster."""
    slurm_says(**dict.fromkeys(("srun", "squeue", "scancel", "sacct"), ""), scontrol=CONFIG, sbatch=SBATCH)


def test_a_profile_is_compared_with_the_cluster(tmp_path: Path, small_cluster: None) -> None:
    site = {
        "gpu_type": "h100",
        "generation": {"gpus": 8, "minutes": 10},
        "finetuning": {"nodes": 2},
        "merge": {"partition": "lost"},
        "gate": {"partition": "low"},
    }
    run, _, _ = make_run(tmp_path / "run", train=200, cluster=site)
    code, found = doctor("--run", run.root)
    assert code == 12

    def texts(area: str, level: str) -> str:
        return " / ".join(f"{f.text} -> {f.remedy}" for f in found.get(area, ()) if f.level == level)

    assert texts("controller", "ok").startswith("test, Slurm 22.05.8, answers; at most 500 tasks in one job array")
    assert texts("generation", "problem") == (
        "sbatch: allocation failure: Requested node configuration is not available -> ask for what nodes have: "
        "slurm.generation.gpus, cpus, memory_gb, nodes, constraint; slurm.gpu_type; "
        "sinfo -o '%P %D %c %m %G %T' lists it"
    )
    assert "Invalid partition name specified -> set slurm.partition; sinfo -s lists them" in texts("merge", "problem")
    assert "Slurm accepts its job" in texts("gate", "ok")
    assert "--probe" in texts("sbatch in jobs", "warning")


def test_a_user_without_a_name_is_examined(
    tmp_path: Path, small_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container without an entry in /etc/passwd."""
    run, _, _ = make_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    _, found = doctor("--run", run.root)
    assert {level(found, area) for area in ("generation", "merge", "gate")} == {"ok"}
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_without_flock_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    run, _, _ = make_run(tmp_path / "run", launcher="local")
    number = getattr(errno, code)
    monkeypatch.setattr(fcntl, "flock", fails(number))
    exit_code, found = doctor("--run", run.root)
    assert (exit_code, level(found, "file system")) == (12, "problem")
    [finding] = found["file system"]
    assert str(run.root) in finding.text and "no flock" in finding.text and "Lustre: -o flock" in finding.remedy
    with pytest.raises(PlatformError, match="driver.lock: this file system has no flock.*put runs elsewhere") as caught:
        with run.drive():
            pass
    assert caught.value.errno == number


@pytest.mark.parametrize("code", ["EINVAL", "ENOTSUP", "ENOSYS", "EIO", "ENOSPC"])
def test_a_file_system_without_fsync_of_folders_loses_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """As some of FUSE and CIFS have none."""
    run, _, _ = make_run(tmp_path / "run", launcher="local")
    monkeypatch.setattr(os, "fsync", fails(getattr(errno, code)))
    _, found = doctor("--run", run.root)
    assert level(found, "file system") == ("problem" if code in {"EIO", "ENOSPC"} else "ok")
    assert str(run.root) in found["file system"][0].text


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("0,1", ["0", "1"]),
        ("", []),
        ("MIG-7c1d3e62-3c5a-5d0b-8f3a-0d1c3b5a7e9f", ["MIG-7c1d3e62-3c5a-5d0b-8f3a-0d1c3b5a7e9f"]),
        ("GPU-8932f937-d72c, GPU-1", ["GPU-8932f937-d72c", "GPU-1"]),
        ("MIG-GPU-8932f937/1/0", ["MIG-GPU-8932f937/1/0"]),
        ("2,-1,3", ["2"]),
        ("NoDevFiles", []),
        ("0,void,1", ["0"]),
        ("-1", []),
    ],
)
def test_visible_gpus_are_names(monkeypatch: pytest.MonkeyPatch, said: str, names: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    assert visible_gpus() == names


def test_a_job_on_this_machine_gets_its_gpus_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, plan, profile = make_run(tmp_path / "run", launcher="local")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b")

    def answer(root: str, name: str, environment: dict[str, str]) -> None:
        (tmp_path / name).write_text(environment["CUDA_VISIBLE_DEVICES"])

    monkeypatch.setattr(local, "run_job", answer)
    profile = profile.model_copy(update={"jobs": 3})
    machine = local.Local(run, plan, profile, Watcher(run, plan, profile, StringIO()), local.Servers(profile, run.root))
    machine.submit(plan.stage("it01/debate"), ["00000", "00001", "00002"])
    for running, name in zip(machine._running, ("MIG-a", "MIG-b", "MIG-a"), strict=True):
        running.job.result()
        assert (tmp_path / machine.log.latest["it01/debate", running.tasks[0]][0].name).read_text() == name
