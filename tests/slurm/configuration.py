"""The configuration files of a test cluster, its partitions and what each of its nodes claims to have."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

# Fakes of type h100, of each node.
GPUS = 4
# Who runs the tests and so the whole cluster.
USER = "root"

SLURM = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
# A requeued job waits until its old credential has expired, two minutes by default.
AuthInfo=socket={home}/run/munge.socket,cred_expire=10
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool/%n
SlurmctldPidFile={home}/run/slurmctld.pid
SlurmdPidFile={home}/run/slurmd-%n.pid
Prolog={home}/etc/prolog.sh
ProctrackType=proctrack/linuxproc
# Jobs that take more memory than they have asked for are killed.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
PropagateResourceLimits=NONE
# Nodes may claim more than this machine has.
SlurmdParameters=config_overrides
ReturnToService=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
DefMemPerCPU=6000
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1,\
default_queue_depth=1000,max_array_tasks=20000
# Preempted jobs get the signal that they asked for with --signal.
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MaxArraySize=20001
# submitit would read an old result if ids began at 1 again in a folder used before.
FirstJobId={first_job}
KillWait=2
SlurmdTimeout=5
MessageTimeout=3
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={database_port}
AccountingStoragePass={home}/run/munge.socket
AccountingStorageEnforce=limits
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=4
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF
"""
NODE = """\
NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=48000 \
Gres=gpu:h100:{gpus} Feature=h100 State=UNKNOWN
"""
DATABASE = """\
AuthType=auth/munge
AuthInfo={home}/run/munge.socket
DbdHost=localhost
DbdPort={database_port}
PidFile={home}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
CommitDelay=0
"""


def write(home: Path, names: list[str], port: int) -> None:
    """Write slurm.conf and whatever else the daemons of these nodes read to ``home/etc``.

    ``port`` is the first of a row: slurmctld's, slurmdbd's, then one for each slurmd.
    """
    for folder in ("etc", "run", "log", "state", "spool", "dev", "tmp"):
        (home / folder).mkdir(mode=0o755)
    for gpu in range(GPUS):
        (home / f"dev/gpu{gpu}").symlink_to("/dev/null")
    values = {
        "home": home,
        "host": socket.gethostname().partition(".")[0],
        "port": port,
        "database_port": port + 1,
        "gpus": GPUS,
        "first_job": int(time.time()) % 40_000_000 + 1000,
    }
    nodes = [NODE.format(**values | {"name": name, "port": port + number}) for number, name in enumerate(names, 2)]
    gpus = f"Type=h100 File={home}/dev/gpu[0-{GPUS - 1}] Flags=nvidia_gpu_env"
    files = {
        "slurm.conf": SLURM.format(**values) + "".join(nodes),
        "gres.conf": "AutoDetect=off\n" + "".join(f"NodeName={name} Name=gpu {gpus}\n" for name in names),
        "slurmdbd.conf": DATABASE.format(**values),
        "cgroup.conf": "",
        "hosts": Path("/etc/hosts").read_text() + "".join(f"\n127.0.0.1 {name}" for name in names) + "\n",
        "prolog.sh": f"#!/bin/sh\n[ ! -e {home}/fails.$SLURMD_NODENAME ]\n",
    }
    for name, text in files.items():
        (home / "etc" / name).write_text(text)
    (home / "etc/slurmdbd.conf").chmod(0o600)
    (home / "etc/prolog.sh").chmod(0o755)
    (home / "etc/munge.key").write_bytes(os.urandom(1024))
    (home / "etc/munge.key").chmod(0o400)
