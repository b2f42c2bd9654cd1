"""The configuration files of a test cluster."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

# Fakes of type h100, of each node.
GPUS = 4
# Who runs the tests and so the whole cluster.
USER = "root"


@dataclass(frozen=True)
class Layout:
    """What a cluster is made of, and where.

    Parameters
    ----------
    home : Path
        Folder of its files; unix sockets lie below it, so it must be short.
    nodes : int
        How many; each claims to have what stands below.
    port : int
        First of ``nodes + 2`` ports: slurmctld, slurmdbd, then one slurmd each.
    """

    home: Path
    nodes: int
    port: int

    @property
    def names(self) -> list[str]:
        return [f"node{number}" for number in range(1, self.nodes + 1)]

    @property
    def munge_socket(self) -> Path:
        return self.home / "run/munge.socket"

    @property
    def database_socket(self) -> Path:
        return self.home / "run/mysql.sock"


def write(layout: Layout, overrides: dict[str, object]) -> None:
    """Write slurm.conf, gres.conf, slurmdbd.conf, hosts and a munge key to ``home/etc``.

    Parameters
    ----------
    layout : Layout
    overrides : dict
        Settings of slurm.conf by name, in place of those here; None removes one.
    """
    home = layout.home
    for folder in ("etc", "run", "log", "state", "spool", "dev"):
        (home / folder).mkdir(mode=0o755, parents=True, exist_ok=True)
    for gpu in range(GPUS):
        (home / f"dev/gpu{gpu}").symlink_to("/dev/null")
    settings = _settings(layout) | overrides
    lines = [f"{name}={value}" for name, value in settings.items() if value is not None]
    for number, name in enumerate(layout.names):
        lines.append(
            f"NodeName={name} NodeHostname={_host()} NodeAddr=127.0.0.1 Port={layout.port + 2 + number} CPUs=8 "
            f"RealMemory=8000 Gres=gpu:h100:{GPUS} Feature=h100 State=UNKNOWN"
        )
    lines += [
        "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF",
        "PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=4",
        "PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF",
    ]
    _put(home / "etc/slurm.conf", lines)
    gpus = f"Name=gpu Type=h100 File={home}/dev/gpu[0-{GPUS - 1}] Flags=nvidia_gpu_env"
    _put(home / "etc/gres.conf", ["AutoDetect=off", *(f"NodeName={name} {gpus}" for name in layout.names)])
    _put(home / "etc/slurmdbd.conf", [f"{name}={value}" for name, value in _database(layout).items()], mode=0o600)
    _put(home / "etc/cgroup.conf", [])
    hosts = Path("/etc/hosts").read_text(encoding="utf-8").splitlines()
    _put(home / "etc/hosts", hosts + [f"127.0.0.1 {name}" for name in layout.names])
    _put(home / "etc/prolog.sh", ["#!/bin/sh", f"[ ! -e {home}/fails.$SLURMD_NODENAME ]"], mode=0o755)
    (home / "etc/munge.key").write_bytes(os.urandom(1024))
    (home / "etc/munge.key").chmod(0o400)


def _settings(layout: Layout) -> dict[str, object]:
    home = layout.home
    return {
        "ClusterName": "test",
        "SlurmctldHost": f"{_host()}(127.0.0.1)",
        "SlurmctldPort": layout.port,
        "SlurmUser": USER,
        "SlurmdUser": USER,
        "AuthType": "auth/munge",
        # A requeued job waits until its old credential has expired, two minutes by default.
        "AuthInfo": f"socket={layout.munge_socket},cred_expire=10",
        "CredType": "cred/munge",
        "StateSaveLocation": home / "state",
        "SlurmdSpoolDir": home / "spool/%n",
        "SlurmctldPidFile": home / "run/slurmctld.pid",
        "SlurmdPidFile": home / "run/slurmd-%n.pid",
        "SlurmctldLogFile": home / "log/slurmctld.log",
        "SlurmdLogFile": home / "log/slurmd-%n.log",
        "MailProg": "/bin/true",
        "Prolog": home / "etc/prolog.sh",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "MpiDefault": "none",
        "PropagateResourceLimits": "NONE",
        # Nodes may claim more than this machine has.
        "SlurmdParameters": "config_overrides",
        "ReturnToService": 1,
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        "GresTypes": "gpu",
        "DefMemPerCPU": 100,
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1,"
        "default_queue_depth=1000,max_array_tasks=20000",
        # Preempted jobs get the signal that they asked for with --signal.
        "SlurmctldParameters": "preempt_send_user_signal",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "MaxArraySize": 1001,
        "MaxJobCount": 50000,
        # submitit would read an old result if ids began at 1 again in a folder used before.
        "FirstJobId": int(time.time()) % 40_000_000 + 1000,
        "MinJobAge": 300,
        "KillWait": 2,
        "OverTimeLimit": 0,
        "SlurmdTimeout": 5,
        "SlurmctldTimeout": 30,
        "InactiveLimit": 0,
        "MessageTimeout": 3,
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": layout.port + 1,
        "AccountingStoragePass": layout.munge_socket,
        "AccountingStorageTRES": "gres/gpu,gres/gpu:h100",
        "AccountingStorageEnforce": "limits",
    }


def _database(layout: Layout) -> dict[str, object]:
    return {
        "AuthType": "auth/munge",
        "AuthInfo": layout.munge_socket,
        "DbdHost": "localhost",
        "DbdAddr": "127.0.0.1",
        "DbdPort": layout.port + 1,
        "SlurmUser": USER,
        "LogFile": layout.home / "log/slurmdbd.log",
        "PidFile": layout.home / "run/slurmdbd.pid",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "localhost",
        "StorageUser": "slurm",
        "StoragePass": "none",
        "StorageLoc": "slurm_acct_db",
        "CommitDelay": 0,
    }


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _put(path: Path, lines: list[str], mode: int = 0o644) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.chmod(mode)
