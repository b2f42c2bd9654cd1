"""The nodes of one finetuning job: who is first, where they meet, how the others find it."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress

import psutil
import submitit

from hpcmaf.errors import SlurmError
from hpcmaf.launch.slurm.commands import call
from hpcmaf.training.multinode import NodeRank

_ASK_SECONDS = 10.0


def restarts() -> int:
    """How often Slurm has requeued this job."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def place_of_job(position: int = 0) -> NodeRank | None:
    """This process's node among those of its job; ``None`` when it has but one.

    Which attempt it is goes into the rendezvous' name, so that a requeued job does not meet its past.

    Parameters
    ----------
    position
        Of the task among those that the job works off one after another.
    """
    if int(os.environ.get("SLURM_STEP_NUM_NODES", "1")) == 1:
        return None
    os.environ["SUBMITIT_EXECUTOR"] = "slurm"  # also where srun starts 'hpcmaf stage'
    environment = submitit.JobEnvironment()
    own = address_of(environment.hostnames[environment.node])
    if "GLOO_SOCKET_IFNAME" not in os.environ and (interface := _interface_of(own)) is not None:
        # Gloo would look its own name up, and meet nobody where that leads nowhere.
        os.environ["GLOO_SOCKET_IFNAME"] = interface
    return NodeRank(
        rank=environment.node,
        nodes=environment.num_nodes,
        run_id=f"{environment.job_id}-{restarts()}-{position}",
        address=own,
    )


def address_of(name: str) -> str:
    """A numeric address under which other nodes reach this one.

    Slurm's own for the node; else what its name stands for here, unless that is the loopback that ``/etc/hosts`` of
    some systems has for it; else that of the interface in ``NCCL_SOCKET_IFNAME``. The name where nothing tells.

    Parameters
    ----------
    name
        Slurm's, of the node that asks.
    """
    return next(_addresses(name), name)


def _addresses(name: str) -> Iterator[str]:
    try:
        said = call(["scontrol", "show", "node", name, "--oneliner"], seconds=_ASK_SECONDS)
    except SlurmError:
        said = ""
    known = dict(re.findall(r"\b(NodeAddr|NodeHostName)=(\S+)", said))
    for host in (known.get("NodeAddr"), known.get("NodeHostName"), name, socket.gethostname()):
        yield from _resolved(host) if host else ()
    if (wanted := os.environ.get("NCCL_SOCKET_IFNAME")) is not None:
        for interface, entries in psutil.net_if_addrs().items():
            if _chosen(interface, wanted):
                yield from (e.address for e in entries if e.family == socket.AF_INET)


def _resolved(host: str) -> list[str]:
    with suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    # IPv4 first; link-local addresses mean nothing without an interface.
    numbers = {ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found}
    usable = [number for number in numbers if not (number.is_loopback or number.is_link_local)]
    return [str(number) for number in sorted(usable, key=lambda number: (number.version, int(number)))]


def _chosen(interface: str, wanted: str) -> bool:
    """Whether NCCL takes an interface: ``eth,ib`` are beginnings of names, ``=`` means whole ones, ``^`` all others."""
    sign, names = re.fullmatch(r"(\^?=?)(.*)", wanted).groups()  # type: ignore[union-attr]
    listed = names.split(",")
    found = interface in listed if "=" in sign else any(name and interface.startswith(name) for name in listed)
    return found != ("^" in sign) and interface != "lo"


def _interface_of(address: str) -> str | None:
    known = psutil.net_if_addrs()
    return next((name for name in known if any(entry.address == address for entry in known[name])), None)
