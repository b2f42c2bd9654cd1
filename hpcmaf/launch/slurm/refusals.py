"""Why Slurm refuses or holds a job, from its messages, and the remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence

# What the words of a refusal are about; the first that fits.
_REFUSALS = (
    (
        r"inactive or drain|not available now",
        "wait until the partition is in service, or name another: slurm.partition",
    ),
    (
        r"submit ?job ?limit|MaxSubmit",
        "wait until some of your jobs have ended, or raise generation.problems_per_shard",
    ),
    (r"account|association", "set slurm.account; sacctmgr show associations lists yours"),
    (r"qos", "set slurm.qos; sacctmgr show associations lists yours"),
    (r"partition", "set slurm.partition to one of {partitions}"),
    (r"feature", "set {section}.constraint; sinfo -o '%P %f' lists features"),
    (r"time limit", "lower {section}.minutes"),
    (r"reservation", "set {section}.options: {{reservation: NAME}}; scontrol show reservation lists them"),
    (r"array", "set slurm.max_array_size"),
    (r"memory", "set {section}.memory_gb"),
    (r"option|licen[cs]e", "see slurm.options and {section}.options"),
)

# Reasons of ordinary queues. All others are told: somebody may have to do something about them.
_ORDINARY = frozenset({"", "none", "priority", "resources", "dependency", "jobarraytasklimit", "begintime", "cleaning"})

# What to do about some of the others, by how they begin.
_HELD = {
    "jobheldadmin": "ask the site's operators",
    "jobheld": "scontrol release {jobs}",
    "jobrequeuedinheld": "scontrol release {jobs}, once what made it fail is mended",
    "launchfailed": "scontrol release {jobs}; the next gate does too",
    "jobholdmaxrequeue": "scontrol release {jobs}; the next gate does too",
    "userenvretrievalfailed": "scontrol release {jobs}; the next gate does too",
    "partitiontimelimit": "lower the profile's minutes, hpcmaf cancel, and submit again",
    "partitionnodelimit": "lower the profile's nodes, hpcmaf cancel, and submit again",
    "badconstraints": "change the profile's constraint, hpcmaf cancel, and submit again",
    "reqnodenotavail,reserved": "jobs that end before it start now: lower the profile's minutes",
    "dependencyneversatisfied": "hpcmaf cancel, and submit again",
}


def lifting(refusal: str, section: str = "slurm.generation", partitions: Sequence[str] = ()) -> str:
    """What to do about a refusal of sbatch.

    Parameters
    ----------
    section
        Of the profile, whose job it was.
    partitions
        Those there are, where that is known.
    """
    found = (remedy for words, remedy in _REFUSALS if re.search(words, refusal, re.IGNORECASE))
    remedy = next(found, f"change {section} until sbatch --test-only takes it")
    return remedy.format(section=section, partitions=", ".join(partitions[:8]) or "those that sinfo lists")


def ordinary(reason: str) -> bool:
    """Whether a job that waits for this reason starts by itself, as queues move."""
    return _plain(reason) in _ORDINARY


def releasing(reason: str, jobs: Sequence[str]) -> str:
    """What to do about jobs that wait for a reason; empty where there is nothing to do but wait."""
    found = (remedy for words, remedy in _HELD.items() if _plain(reason).startswith(words))
    return next(found, "").format(jobs=",".join(jobs[:8]))


def _plain(reason: str) -> str:
    """A reason as it can be compared: Slurm writes ``launch failed requeued held`` and ``JobHeldUser``."""
    return re.sub(r"[\s_()]", "", reason).lower()
