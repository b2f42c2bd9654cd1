"""A profile against the cluster's partitions, nodes, accounts and limits."""

from __future__ import annotations

import getpass
from collections.abc import Generator, Mapping, Sequence

from hpcmaf.errors import SlurmError
from hpcmaf.launch.doctor.finding import Finding, ok, problem, warning
from hpcmaf.launch.doctor.nodes import Node, fitting, minutes, read_nodes, records
from hpcmaf.launch.slurm.commands import call
from hpcmaf.profile import Profile
from hpcmaf.site import Resources, Slurm

_KINDS = {"generation": "debate", "finetuning": "finetune", "merge": "merge", "gate": "gate"}


def examine_site(profile: Profile) -> Generator[Finding, None, int]:
    """Whether every kind of job has a place; returns on how many nodes debates can run."""
    cluster = profile.cluster
    try:
        partitions = {
            record["PartitionName"]: record
            for record in records(
                call(["scontrol", "show", "partition", "--oneliner"], seconds=cluster.command_seconds)
            )
        }
        nodes = read_nodes(call(["scontrol", "show", "node", "--oneliner"], seconds=cluster.command_seconds))
    except (SlurmError, KeyError) as error:
        yield warning("partitions", f"cannot be told ({error})", "look with sinfo whether the profile's exist")
        return 1
    places = 1
    for name, kind in _KINDS.items():
        wanted = cluster.resources(kind)
        found = yield from _kind(name, wanted, cluster, partitions, nodes)
        if name == "generation":
            places = found
    yield from _limits(cluster)
    return places


def _kind(
    name: str,
    wanted: Resources,
    cluster: Slurm,
    partitions: Mapping[str, Mapping[str, str]],
    nodes: Sequence[Node],
) -> Generator[Finding, None, int]:
    default = [key for key, record in partitions.items() if record.get("Default") == "YES"]
    asked = wanted.partition or cluster.partition
    names = asked.split(",") if asked else default
    if not names:
        yield problem(name, "no partition is named, and the cluster has no default", "set slurm.partition; see sinfo")
        return 1
    fits = 1
    for partition in names:
        if (record := partitions.get(partition)) is None:
            remedy = f"set slurm.partition to one of {', '.join(sorted(partitions)[:8])}"
            yield problem(name, f"there is no partition {partition}", remedy)
            continue
        faults = list(_partition_faults(name, partition, record, wanted, cluster))
        yield from faults
        members = [node for node in nodes if partition in node.partitions]
        verdict, count = fitting(members, wanted, cluster, f"slurm.{name}")
        if verdict is not None:
            yield problem(name, f"partition {partition}: {verdict[0]}", verdict[1])
        elif not faults:
            fits = max(fits, count)
            yield ok(
                name, f"partition {partition}: {count} of {len(members)} nodes fit, {record.get('MaxTime')} at most"
            )
    return fits


def _partition_faults(
    name: str, partition: str, record: Mapping[str, str], wanted: Resources, cluster: Slurm
) -> Generator[Finding]:
    if record.get("State") != "UP":
        yield problem(name, f"partition {partition} is {record.get('State')}", "name another, or wait until it is up")
    if wanted.minutes > (longest := minutes(record.get("MaxTime", ""))):
        remedy = (
            f"set slurm.{name}.minutes to {longest:g} or less; what is not done by then goes on in the next attempt"
        )
        yield problem(name, f"{wanted.minutes} minutes, but {partition} allows {longest:g}", remedy)
    most = record.get("MaxNodes", "")
    if most.isdigit() and wanted.nodes > int(most):
        yield problem(name, f"{wanted.nodes} nodes, but {partition} allows {most}", f"lower slurm.{name}.nodes")
    for key, allowed, denied in (("account", "AllowAccounts", "DenyAccounts"), ("qos", "AllowQos", "DenyQos")):
        value = getattr(wanted, key) or getattr(cluster, key)
        few = record.get(allowed, "ALL")
        if value and few not in {"ALL", "(null)"} and value not in few.split(","):
            yield problem(name, f"partition {partition} is not for {key} {value}", f"set slurm.{key} to one of {few}")
        if value and value in record.get(denied, "").split(","):
            yield problem(name, f"partition {partition} refuses {key} {value}", f"set another slurm.{key}")
    # A partition's own says it for its jobs; the controller's default is OFF or inherited.
    mode = record.get("PreemptMode", "OFF")
    if any(word in mode for word in ("CANCEL", "SUSPEND")):
        effect = "waits in memory" if "SUSPEND" in mode else "is cancelled, and its gate submits it again"
        yield warning(name, f"partition {partition}: PreemptMode {mode}: a preempted job {effect}", "expect delays")


def _limits(cluster: Slurm) -> Generator[Finding]:
    """Accounts, qualities of service and their limits, if the database answers."""
    user = getpass.getuser()
    seconds = min(10.0, cluster.command_seconds)
    form = "format=account,partition,qos,maxsubmitjobs,grpsubmitjobs,maxwall"
    qos_form = "format=name,maxsubmitjobsperuser,grpsubmitjobs,maxwall"
    try:
        rows = [
            line.split("|")
            for line in call(
                ["sacctmgr", "-nP", "show", "associations", f"user={user}", form], seconds=seconds
            ).splitlines()
        ]
        services = {
            line.split("|")[0]: line.split("|")
            for line in call(["sacctmgr", "-nP", "show", "qos", qos_form], seconds=seconds).splitlines()
        }
    except SlurmError as error:
        yield warning(
            "accounts", str(error), "ask your site whether account and qos are right, and how many jobs you may submit"
        )
        return
    accounts = {row[0] for row in rows if len(row) > 5}
    allowed = {qos for row in rows if len(row) > 5 for qos in row[2].split(",") if qos}
    asked = _asked(cluster, "account")
    if unknown := sorted(asked - accounts):
        remedy = (
            f"set slurm.account to one of {', '.join(sorted(accounts))}" if accounts else "ask your site for an account"
        )
        yield problem("accounts", f"{user} has no account {', '.join(unknown)}", remedy)
    if unknown := sorted(_asked(cluster, "qos") - allowed):
        remedy = f"set slurm.qos to one of {', '.join(sorted(allowed))}" if allowed else "leave slurm.qos out"
        yield problem("accounts", f"{user} may not use qos {', '.join(unknown)}", remedy)
    used = [row for row in rows if len(row) > 5 and (not asked or row[0] in asked)]
    limits = [int(row[k]) for row in used for k in (3, 4) if row[k].isdigit()]
    limits += [
        int(services[qos][k])
        for qos in _asked(cluster, "qos") & services.keys()
        for k in (1, 2)
        if services[qos][k].isdigit()
    ]
    longest = max(cluster.resources(kind).minutes for kind in _KINDS.values())
    for qos in sorted(_asked(cluster, "qos") & services.keys()):
        if (most := minutes(services[qos][3])) < longest:
            yield problem(
                "accounts", f"qos {qos} allows {most:g} minutes, the profile asks for {longest}", "lower minutes"
            )
    if limits:
        yield warning(
            "MaxSubmitJobs",
            f"at most {min(limits)} of your jobs may be queued or running, every task of an array counted",
            f"keep stages below that: raise generation.problems_per_shard, or lower max_shards under {min(limits)}",
        )
    else:
        names = ", ".join(sorted(accounts)) or "none"
        yield ok("accounts", f"{user}: {names}; no limit on submitted jobs")


def _asked(cluster: Slurm, key: str) -> set[str]:
    return {
        value for kind in _KINDS.values() if (value := getattr(cluster.resources(kind), key) or getattr(cluster, key))
    }
