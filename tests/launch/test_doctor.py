"""``hpcmaf doctor`` without a cluster: what it reads, what it concludes, and that it never breaks down."""

from __future__ import annotations

import errno
import fcntl
import getpass
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from click.testing import CliRunner

from hpcmaf.cli.doctor import command
from hpcmaf.config.profile import Profile
from hpcmaf.config.slurm import Resources, Slurm
from hpcmaf.errors import PlatformError
from hpcmaf.launch import doctor as doctor_module
from hpcmaf.launch import executors
from hpcmaf.launch.doctor import Finding, examine, fitting, minutes, read_nodes, records
from hpcmaf.launch.executors import visible_gpus
from hpcmaf.run.directory import RunDir
from tests.launch.conftest import SlurmSays
from tests.launch.made_runs import make_run

NODE = (
    "NodeName={name} Arch=x86_64 CoresPerSocket=1 CPUAlloc=0 CPUTot=8 CPULoad=1.57 AvailableFeatures={features} "
    "ActiveFeatures={features} Gres={gres} OS=Linux 6.1 #1 SMP (2026-01-01) RealMemory=8000 State={state} "
    "Partitions=main,low Reason=not responding [root@2026-11-22T23:00:00]"
)
PARTITION = (
    "PartitionName={name} AllowAccounts={accounts} AllowQos=ALL Default={default} MaxNodes=2 MaxTime=1-00:00:00 "
    "PreemptMode={preempt} State=UP Nodes=node[1-2]"
)
CONFIG = """
ClusterName             = test
KillWait                = 30 sec
SLURM_VERSION           = 22.05.8
MaxArraySize            = 1001
MaxJobCount             = 100
SchedulerParameters     = bf_interval=3,max_array_tasks=500
"""


def node(name: str = "node1", features: str = "h100,ib", gres: str = "gpu:h100:4(S:0-1)", state: str = "IDLE") -> str:
    return NODE.format(name=name, features=features, gres=gres, state=state)


def partition(name: str = "main", default: str = "YES", accounts: str = "ALL", preempt: str = "OFF") -> str:
    return PARTITION.format(name=name, default=default, accounts=accounts, preempt=preempt)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("60", 60),
        ("1:30", 1.5),
        ("2:00:00", 120),
        ("1-00:00:00", 1440),
        ("2-12", 2 * 1440 + 720),
        ("UNLIMITED", math.inf),
        ("infinite", math.inf),
        ("", math.inf),
    ],
)
def test_time_limits(text: str, value: float) -> None:
    assert minutes(text) == value


def test_records_keep_blanks_within_values() -> None:
    [record] = records(node())
    assert record["OS"] == "Linux 6.1 #1 SMP (2026-01-01)"
    assert record["Reason"].startswith("not responding")


def test_nodes_are_read() -> None:
    first, second = read_nodes(node() + "\n" + node("node2", "(null)", "(null)", "DOWN*+DRAIN"))
    assert (first.cpus, first.memory, first.gpus) == (8, 8000 / 1024, {"h100": 4})
    assert second.gpus == {}
    assert first.usable and not second.usable
    [untyped] = read_nodes(node(gres="gpu:2,craynetwork:4"))
    assert untyped.gpus == {"": 2}


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:3090:4", {"3090": 4}),
        ("gpu:2080ti:8(S:0-1)", {"2080ti": 8}),
        ("gpu:1g.10gb:7(S:0,2),gpu:A100:1", {"1g.10gb": 7, "a100": 1}),
        ("gpu:a100:no_consume:4", {"a100": 4}),
        ("gpu:no_consume:2", {"": 2}),
        ("craynetwork:4,gpu:a100_3g.20gb:2,mps:400,gpumem:80", {"a100_3g.20gb": 2}),
        ("shard:gpu:4", {}),
    ],
)
def test_gpus_of_any_name_are_read(gres: str, gpus: dict[str, int]) -> None:
    [found] = read_nodes(node(gres=gres))
    assert found.gpus == gpus


@pytest.mark.parametrize("wanted", ["A100", "a100"])
def test_the_case_of_a_type_does_not_matter(wanted: str) -> None:
    nodes = read_nodes(node(gres="gpu:A100:4"))
    assert fitting(nodes, Resources(gpus=4), Slurm(gpu_type=wanted), "slurm.generation") == ("", "", 1)


@pytest.mark.parametrize(
    ("state", "usable"),
    [
        ("IDLE+CLOUD+POWERED_DOWN", True),
        ("IDLE+CLOUD+POWERING_DOWN", True),
        ("IDLE*+CLOUD+POWERING_UP+NOT_RESPONDING", True),
        ("IDLE+POWER_DOWN", True),
        ("MIXED+PLANNED", True),
        ("ALLOCATED+MAINTENANCE+RESERVED", True),
        ("DOWN+CLOUD+POWERED_DOWN", False),
        ("IDLE+DRAIN", False),
        ("MIXED+DRAINING", False),
        ("IDLE*", False),
        ("IDLE+NOT_RESPONDING", False),
        ("FUTURE", False),
        ("IDLE+INVALID_REG", False),
        ("ALLOCATED+FAIL", False),
    ],
)
def test_nodes_that_sleep_come_by_themselves(state: str, usable: bool) -> None:
    [found] = read_nodes(node(state=state))
    assert found.usable is usable


@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        ({"gpus": 5}, "5 h100 GPUs"),
        ({"cpus": 9}, "9 CPUs"),
        ({"memory_gb": 100.0}, "100 GB"),
        ({"nodes": 3}, "3 nodes"),
    ],
)
def test_what_does_not_fit_is_named(wanted: dict[str, object], word: str) -> None:
    nodes = read_nodes(node() + "\n" + node("node2"))
    cluster = Slurm(gpu_type="h100")
    assert fitting(nodes, Resources(), cluster, "slurm.merge") == ("", "", 2)
    assert word in fitting(nodes, Resources.model_validate(wanted), cluster, "slurm.merge")[0]
    down = read_nodes(node(state="DOWN*"))
    assert "down or drained" in fitting(down, Resources(), cluster, "slurm.merge")[0]


@pytest.mark.parametrize(
    ("kind", "options", "level"),
    [
        ("nfs4", "rw,local_lock=none", "ok"),
        ("nfs", "rw,nolock", "problem"),
        ("lustre", "rw,flock", "ok"),
        ("lustre", "rw", "problem"),
        ("lustre", "rw,localflock", "problem"),
        ("fuse.sshfs", "rw", "ok"),
        ("tmpfs", "rw", "problem"),
        ("ext4", "rw", "warning"),
    ],
)
def test_the_deepest_mount_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str, level: str
) -> None:
    """And of those on one point the last, as it covers the others."""
    rows = [("/", "ext4", ""), (str(tmp_path), "ext4", ""), (str(tmp_path), kind, options), (f"{tmp_path}x", "xfs", "")]
    found = [SimpleNamespace(mountpoint=point, fstype=kind, opts=opts) for point, kind, opts in rows]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: found)
    run, _, _ = make_run(tmp_path / "run")
    _, findings = doctor("--run", str(run.root))
    [finding] = findings["shared folder"]
    assert (finding.level, f"is on {kind} ({tmp_path})" in finding.text) == (level, True)


def doctor(*words: str) -> tuple[int, dict[str, list[Finding]]]:
    result = CliRunner().invoke(command, [*words, "--json"], catch_exceptions=False)
    found: dict[str, list[Finding]] = {}
    for value in json.loads(result.output):
        found.setdefault(value["area"], []).append(Finding(**value))
    return result.exit_code, found


def test_without_slurm_it_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _, _ = make_run(tmp_path / "run")
    monkeypatch.setenv("PATH", str(tmp_path))
    code, found = doctor("--run", str(run.root), "--probe")
    assert code == 12
    assert found["Slurm commands"][0].level == "problem"
    assert "sbatch" in found["Slurm commands"][0].text and found["Slurm commands"][0].remedy


def test_a_silent_controller_is_a_finding(tmp_path: Path, slurm_says: SlurmSays) -> None:
    run, _, _ = make_run(tmp_path / "run")
    silent = dict.fromkeys(("srun", "squeue", "scancel", "scontrol", "sinfo", "sacct"), 1)
    slurm_says(sbatch="slurm 24.05.2\n", **silent)
    code, found = doctor("--run", str(run.root))
    assert code == 12
    assert [finding.level for finding in found["controller"]] == ["problem"]


def played(slurm_says: SlurmSays, tmp_path: Path, **texts: str | int) -> None:
    """Clients of a small cluster; scontrol answers by what it is asked."""
    answers: dict[str, str | int] = {
        "sbatch": "slurm 19.05.8\n",
        "srun": "",
        "squeue": "",
        "scancel": "",
        "scontrol": "",
        "sinfo": "",
        "sacct": "",
    }
    slurm_says(**(answers | texts))
    folder = tmp_path / "bin"
    (folder / "config").write_text(CONFIG)
    (folder / "partition").write_text(partition() + "\n" + partition("low", "NO", "theirs", "CANCEL") + "\n")
    (folder / "node").write_text(node() + "\n" + node("node2", state="DOWN*") + "\n")
    (folder / "scontrol").write_text(f'#!/bin/sh\ncat "{folder}/$2"\n')
    # As sbatch 22.05 answers to --test-only.
    (folder / "sbatch").write_text(SBATCH)


SBATCH = r"""#!/bin/sh
[ "$1" = --test-only ] || { echo slurm 19.05.8; exit; }
refuse() { echo "allocation failure: $1" >&2; exit 1; }
grep -q "^#SBATCH --array=0-[5-9][0-9][0-9]" "$2" && refuse "Invalid job array specification"
grep -q "partition=lost" "$2" && refuse "Invalid partition name specified"
grep -q "account=theirs" "$2" && refuse "Invalid account or account/partition combination specified"
grep -q "gpus-per-node=h100:8" "$2" && refuse "Requested node configuration is not available"
echo "sbatch: Job 7 to start at 2026-11-30T07:56:50 using 1 processors on nodes node1 in partition main" >&2
"""


def test_a_profile_is_held_against_the_cluster(tmp_path: Path, slurm_says: SlurmSays) -> None:
    site = {
        "gpu_type": "h100",
        "generation": {"gpus": 8, "minutes": 10},
        "finetuning": {"nodes": 2, "minutes": 3000},
        "merge": {"partition": "lost"},
        "gate": {"partition": "low", "account": "mine"},
    }
    run, _, _ = make_run(tmp_path / "run", train=200, cluster=site)
    played(slurm_says, tmp_path)
    code, found = doctor("--run", str(run.root))
    assert code == 12

    def texts(area: str, level: str) -> str:
        return " / ".join(f"{f.text} -> {f.remedy}" for f in found.get(area, ()) if f.level == level)

    assert texts("controller", "ok").startswith("test, Slurm 22.05.8, answered in")
    assert texts("MaxArraySize", "ok").startswith("500; larger stages are submitted in several arrays")
    assert texts("generation", "problem") == (
        "sbatch: allocation failure: Requested node configuration is not available "
        "(no node has 8 h100 GPUs, 4 at most) -> lower slurm.generation.gpus, or set slurm.gpu_type (there are: h100)"
    )
    assert "3000 minutes, but partition main allows 1440" in texts("finetuning", "problem")
    assert "2 nodes are asked for, 1 fit" in texts("finetuning", "warning")
    assert "Invalid partition name specified -> set slurm.partition to one of low, main" in texts("merge", "problem")
    assert "account mine, but partition low allows theirs: its jobs never start" in texts("gate", "problem")
    assert "PreemptMode CANCEL" in texts("gate", "warning")
    assert "--probe" in texts("sbatch in jobs", "warning")


def test_accounting_that_is_silent_is_no_problem(tmp_path: Path, slurm_says: SlurmSays) -> None:
    run, _, _ = make_run(tmp_path / "run", cluster={"max_array_size": 500})
    played(slurm_says, tmp_path, sacct=1)
    code, found = doctor("--run", str(run.root))
    assert found["accounting"][0].level == "warning"
    # The tests' folders may lie in memory, which is no place for a cluster's run.
    assert code == 0 or {f.area for all in found.values() for f in all if f.level == "problem"} == {"shared folder"}


def test_the_larger_array_of_a_run_is_what_slurm_is_asked_about(tmp_path: Path, slurm_says: SlurmSays) -> None:
    """Cut to what Slurm takes, which is the smaller of its two limits."""
    run, _, _ = make_run(tmp_path / "run", train=700)
    played(slurm_says, tmp_path)
    _, found = doctor("--run", str(run.root))
    assert [finding.level for finding in found["generation"]] == ["ok"]
    _, found = doctor("--run", str(run.root), "--set-profile", "slurm.max_array_size=700")
    [finding] = found["MaxArraySize"]
    assert finding.level == "problem" and "set slurm.max_array_size to 500" in finding.remedy
    assert "Invalid job array specification" in found["generation"][0].text


def test_an_account_that_slurm_refuses_is_in_its_words(tmp_path: Path, slurm_says: SlurmSays) -> None:
    run, _, _ = make_run(tmp_path / "run", cluster={"account": "theirs"})
    played(slurm_says, tmp_path)
    _, found = doctor("--run", str(run.root))
    for area in ("generation", "finetuning", "merge", "gate"):
        [finding] = found[area]
        assert (finding.level, "Invalid account" in finding.text) == ("problem", True)
        assert finding.remedy.startswith("set slurm.account")


def test_a_user_without_a_name_is_examined(
    tmp_path: Path, slurm_says: SlurmSays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container without an entry in /etc/passwd."""
    run, _, _ = make_run(tmp_path / "run")
    played(slurm_says, tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    _, found = doctor("--run", str(run.root))
    assert {found[area][0].level for area in ("generation", "merge", "gate")} == {"ok"}
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_flock_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run, _, _ = make_run(tmp_path / "run", launcher="local")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    code, found = doctor("--run", str(run.root))
    [finding] = found["locks"]
    assert code == 12 and finding.level == "problem"
    assert str(run.root) in finding.text and "no flock" in finding.text and "Lustre: -o flock" in finding.remedy
    with pytest.raises(PlatformError, match="driver.lock: this file system has no flock.*put runs elsewhere") as caught:
        with run.drive():
            pass
    assert caught.value.errno == number


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
        ("-1", []),
    ],
)
def test_visible_gpus_are_names(monkeypatch: pytest.MonkeyPatch, said: str, names: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    assert visible_gpus() == names


def test_a_job_on_this_machine_gets_its_gpus_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, plan, profile = make_run(tmp_path / "run", launcher="local")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b")

    def answer(*_: object) -> None:
        (tmp_path / "seen").write_text(os.environ["CUDA_VISIBLE_DEVICES"])

    monkeypatch.setattr(executors, "run_task", answer)
    for slot, name in enumerate(("MIG-a", "MIG-b", "MIG-a")):
        attempt = tmp_path / f"attempt-{slot}"
        attempt.mkdir()
        executors.submit_local(run, plan.stages[0], ["00000"], attempt, plan.identity, profile, slot).result()
        assert (tmp_path / "seen").read_text() == name


def test_wrong_and_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["click<1", "nosuchpackage>=3", "rich>=13", 'vllm>=0.27; extra == "vllm"', 'tomli; python_version < "3"']
    monkeypatch.setattr(doctor_module.metadata, "requires", lambda name: needs)
    findings = list(examine(Profile(name="here"), RunDir(tmp_path)))
    problems = {one.text.split()[0]: one.remedy for one in findings if (one.area, one.level) == ("packages", "problem")}
    assert problems == {"click": "pip install 'click<1'", "nosuchpackage": "pip install 'nosuchpackage>=3'"}


def test_a_torn_plan_is_a_finding(tmp_path: Path) -> None:
    run, _, _ = make_run(tmp_path / "run", launcher="local")
    run.plan.write_text("{")
    code, found = doctor("--run", str(run.root))
    assert code == 12 and "damaged" in found["run directory"][0].text


@pytest.mark.parametrize(
    ("number", "level"),
    [(errno.EINVAL, "ok"), (errno.ENOTSUP, "ok"), (errno.EIO, "problem"), (errno.ENOSPC, "problem")],
)
def test_a_folder_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, level: str
) -> None:
    """A file system without fsync of folders, as some of FUSE and CIFS, is none that loses data."""
    run, _, _ = make_run(tmp_path / "run", launcher="local")

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    _, found = doctor("--run", str(run.root))
    [finding] = found["fsync"]
    assert finding.level == level and str(run.root) in finding.text
