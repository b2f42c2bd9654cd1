"""Under which address a node of a job is reached, as its Slurm, its name service and its interfaces tell."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import psutil
import pytest

from hpcmaf.jobs import task as task_module
from hpcmaf.launch.slurm.nodes import address_of
from hpcmaf.run.directory import RunDir
from hpcmaf.training.multinode import NodeRank
from hpcmaf.training.stop import StopFlag
from tests.launch.conftest import SlurmSays
from tests.launch.made_runs import finish, make_run

NODE = "NodeName=gpu07 Arch=x86_64 CPUTot=8 NodeAddr={address} NodeHostName={name} Version=22.05.8 State=IDLE\n"

Known = dict[str, list[str]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Known:
    """What the name service knows."""
    known: Known = {}

    def look_up(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        if host not in known:
            raise socket.gaierror(-2, "Name or service not known")
        families = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(families[":" in address], socket.SOCK_STREAM, 6, "", (address, 0)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "gethostname", lambda: "container-1")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    return known


@pytest.mark.parametrize(
    ("address", "known", "expected"),
    [
        # Slurm has a number.
        ("10.0.0.7", {}, "10.0.0.7"),
        ("fd00::7", {}, "fd00::7"),
        # It has a name, which is known.
        ("gpu07-ib", {"gpu07-ib": ["10.1.0.7"]}, "10.1.0.7"),
        ("gpu07", {"gpu07": ["fe80::1%eth0", "fd00::7", "10.0.0.7"]}, "10.0.0.7"),
        # /etc/hosts has the node's own name as a loopback, but not the host name.
        ("gpu07", {"gpu07": ["127.0.1.1"], "container-1": ["10.0.0.9"]}, "10.0.0.9"),
        ("gpu07", {"gpu07": ["127.0.1.1"]}, "gpu07"),
        ("gpu07", {}, "gpu07"),
    ],
)
def test_the_address_of_a_node(slurm_says: SlurmSays, names: Known, address: str, known: Known, expected: str) -> None:
    slurm_says(scontrol=NODE.format(address=address, name="gpu07"))
    names.update(known)
    assert address_of("gpu07") == expected


def test_without_slurm_and_names_the_interface_of_nccl_counts(
    slurm_says: SlurmSays, names: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm_says(scontrol=1)
    entry = psutil.net_if_addrs()["lo"][0]
    addresses = {"lo": "127.0.0.1", "eth0": "10.0.0.7", "ib0": "10.1.0.7"}
    known = {name: [entry._replace(address=address)] for name, address in addresses.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: known)
    wishes = {"ib": "10.1.0.7", "eth0,ib": "10.0.0.7", "=ib0": "10.1.0.7", "^eth": "10.1.0.7", "wlan": "gpu07"}
    for wanted, expected in wishes.items():
        monkeypatch.setenv("NCCL_SOCKET_IFNAME", wanted)
        assert address_of("gpu07") == expected, wanted


def test_a_node_that_joins_stays_until_node_0_has_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """srun ends whoever is left soon after the first task's end: node 0 would not come to publish."""
    run, plan, _ = make_run(tmp_path / "run")
    stage = plan.stage("it01/finetune")
    task = stage.tasks[0]
    folder = run.attempts(stage, task) / "0001"
    folder.mkdir(parents=True)
    (folder / "attempt.json").write_text(json.dumps({"meeting": "7-0-0"}))
    monkeypatch.setattr("hpcmaf.training.job.join_finetune", lambda *_, **__: None)
    monkeypatch.setattr(task_module, "POLL_SECONDS", 0.01)
    place = NodeRank(1, 2, "7-0-0", "10.0.0.2")
    lending = threading.Thread(target=task_module.join_task, args=(RunDir(run.root), stage, task, place, StopFlag()))
    lending.start()
    time.sleep(0.3)
    assert lending.is_alive()
    finish(run, stage, [task])
    lending.join(10)
    assert not lending.is_alive()
