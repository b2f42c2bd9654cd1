"""A profile against the cluster: Slurm itself is asked whether it would take each kind of job.

``sbatch --test-only`` gets the very scripts that a run submits. What Slurm
says of a refusal is explained by its nodes and partitions; so is what it
takes and then lets wait for ever.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from hpcmaf.config.profile import Profile
from hpcmaf.config.slurm import Resources, Slurm
from hpcmaf.errors import HpcmafError, SlurmError
from hpcmaf.launch.doctor.finding import Finding, ok, problem, warning
from hpcmaf.launch.doctor.nodes import Node, fitting, minutes, read_nodes, records
from hpcmaf.launch.slurm.commands import call
from hpcmaf.launch.slurm.executor import ChainExecutor
from hpcmaf.launch.slurm.refusals import lifting
from hpcmaf.launch.slurm.requests import DEFAULT_MAX_ARRAY_SIZE, array_limit, parameters, stage_windows
from hpcmaf.run.directory import RunDir

_KINDS = {"generation": "debate", "finetuning": "finetune", "merge": "merge", "gate": "gate"}


def examine_site(profile: Profile, run: RunDir, known: Mapping[str, str]) -> Generator[Finding, None, int]:
    """Whether every kind of job has a place; returns on how many nodes debates can run.

    Parameters
    ----------
    known
        Slurm's configuration.
    """
    cluster = profile.cluster
    limit = cluster.max_array_size or array_limit(known) or DEFAULT_MAX_ARRAY_SIZE
    partitions: dict[str, dict[str, str]] = {}
    nodes: list[Node] = []
    try:
        text = call(["scontrol", "show", "partition", "--oneliner"], seconds=cluster.command_seconds)
        partitions = {record["PartitionName"]: record for record in records(text)}
        nodes = read_nodes(call(["scontrol", "show", "node", "--oneliner"], seconds=cluster.command_seconds))
    except (SlurmError, KeyError) as error:
        yield warning("partitions", f"cannot be told ({error})", "look with sinfo whether the profile's exist")
    places = 1
    for name, kind in _KINDS.items():
        refusal = _try(profile, run, kind, limit)
        wanted = cluster.resources(kind)
        asked = wanted.partition or cluster.partition
        names = asked.split(",") if asked else [key for key, row in partitions.items() if row.get("Default") == "YES"]
        members = [node for node in nodes if node.partitions.intersection(names)]
        why, count = fitting(members, wanted, cluster, f"slurm.{name}")
        if name == "generation":
            places = max(1, count)
        if refusal is not None:
            yield problem(name, *_explained(refusal, f"slurm.{name}", why if members else None, sorted(partitions)))
            continue
        caveats = [
            finding for key in names for finding in _caveats(name, key, partitions.get(key, {}), wanted, cluster)
        ]
        yield from caveats
        if why is not None and members:
            yield warning(name, f"Slurm takes its job, but of the nodes seen {why[0]}", why[1])
        elif all(finding.level == "warning" for finding in caveats):
            yield ok(name, f"Slurm takes its job; {count} of {len(members)} nodes of {', '.join(names) or '?'} fit")
    return places


def _try(profile: Profile, run: RunDir, kind: str, limit: int) -> str | None:
    """What Slurm says against the script of a kind of job, of as large an array as the run has."""
    values = parameters(profile, kind, name="doctor")
    executor = ChainExecutor(run.root.resolve(), profile.cluster, check=False)
    executor.update_parameters(**values)
    with tempfile.TemporaryDirectory(prefix="hpcmaf-doctor-") as folder:
        script = Path(folder) / f"{kind}.sh"
        script.write_text(executor.script(_largest_array(profile, run, kind, limit)), encoding="utf-8")
        try:
            call(["sbatch", "--test-only", str(script)], seconds=profile.cluster.command_seconds)
        except SlurmError as error:
            return str(error)
    return None


def _largest_array(profile: Profile, run: RunDir, kind: str, limit: int) -> int:
    try:
        stages = [stage for stage in run.load_plan().stages if stage.kind == kind]
    except HpcmafError:
        return 1  # there is none yet, or the run directory's own finding says what is wrong
    windows = (window for stage in stages for window in stage_windows(stage, stage.tasks, profile, limit))
    return max((len(window.elements) for window in windows), default=1)


def _explained(refusal: str, section: str, why: tuple[str, str] | None, partitions: Sequence[str]) -> tuple[str, str]:
    """Slurm's words, what is behind them where its nodes tell, and what to do."""
    if why is not None and re.search("node configuration|node not available", refusal, re.IGNORECASE):
        return f"{refusal} ({why[0]})", why[1]
    return refusal, lifting(refusal, section, partitions)


def _caveats(
    name: str, partition: str, record: Mapping[str, str], wanted: Resources, cluster: Slurm
) -> Generator[Finding]:
    """What a job would wait for although Slurm takes it."""
    if record.get("State", "UP") != "UP":
        yield warning(name, f"partition {partition} is {record['State']}: jobs wait", "name another, or wait")
    if wanted.minutes > (longest := minutes(record.get("MaxTime", ""))):
        remedy = f"set slurm.{name}.minutes to {longest:g} or less; what is not done goes on in the next attempt"
        yield problem(
            name, f"{wanted.minutes} minutes, but {partition} allows {longest:g}: its jobs never start", remedy
        )
    most = record.get("MaxNodes", "")
    if most.isdigit() and wanted.nodes > int(most):
        remedy = f"lower slurm.{name}.nodes"
        yield problem(name, f"{wanted.nodes} nodes, but {partition} allows {most}: its jobs never start", remedy)
    for key, allowed, denied in (("account", "AllowAccounts", "DenyAccounts"), ("qos", "AllowQos", "DenyQos")):
        value, few = getattr(wanted, key) or getattr(cluster, key), record.get(allowed, "ALL").split(",")
        if value and (value in record.get(denied, "").split(",") or not {"ALL", "(null)", value}.intersection(few)):
            yield problem(name, f"partition {partition} is not for {key} {value}", f"set slurm.{key}, such as {few[0]}")
    # A partition's own says it for its jobs; the controller's default is OFF or inherited.
    mode = record.get("PreemptMode", "OFF")
    if any(word in mode for word in ("CANCEL", "SUSPEND")):
        effect = "waits in memory" if "SUSPEND" in mode else "is cancelled, and its gate submits it again"
        yield warning(name, f"partition {partition}: PreemptMode {mode}: a preempted job {effect}", "expect delays")
