"""What Slurm's words are worth where a client fails or a job is held: final, for later or nothing, and the remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hpcmaf.errors import SlurmError


class RefusedError(SlurmError):
    """Slurm would refuse this request again."""


class NoNodeError(RefusedError):
    """No node is such as is asked for, once those to be avoided are left out."""


class LaterError(SlurmError):
    """Not now: a partition is drained, a limit of usage reached."""


class SubmitLimitError(LaterError):
    """The user may not have more jobs in the queue."""


class ControllerAbsentError(LaterError):
    """The controller does not answer."""


class DependencyError(SlurmError):
    """Slurm does not know a job that another is to wait for."""


# What the clients say when it is the controller that fails, not the request: Slurm's communication errors, the
# functions that report them, munge, name services and networks. Too many here cost a look at the queue.
_ABSENT = re.compile(
    r"Unable to contact slurm|Connection (refused|timed out|reset|aborted)|Broken pipe|timed out|"
    r"Zero Bytes|missing socket|Communication (connection|shutdown) failure|Message (send|receive) failure|"
    r"slurm_msg_sendto|slurm_receive_msg|slurm_persist_conn|controller is not|in standby mode|temporar|"
    r"munge|authentication error|credential|shared (librar|object)|unpack|DNS SRV|fetch_config|"
    r"(un)?able to (resolve|establish)|name resolution|host name lookup|name or service|"
    r"no route to host|network is (unreachable|down)|"
    r"host is (down|unreachable)|(unknown|no such) host|host not found|transport endpoint|stale file handle|"
    r"input/output error|I/O error writing|cannot allocate memory|configuration (file|source)|"
    r"database is busy|try again|slurm_load_\w+ error: (unspecified|unknown)|"
    # Plugins that refuse a request say why before it.
    r"^(\w+: error: )?(Batch job submission failed: )?Unspecified error$",
    re.IGNORECASE,
)
# What keeps a request from being taken until others end, or operators are done.
_LATER = re.compile(
    r"partition not available|configuration not available now|node not available|presently disabled|not usable now|"
    r"\bbusy\b|licenses?( are)? not available|database is not|"
    r"(down|drained|inactive|maintenance|reserved)\b",
    re.IGNORECASE,
)
# The general line names every limit; the particular one, where there is one, stands before it.
_LIMITS = re.compile(r"\b(?:Assoc|QOS|MaxSubmit)\w+")
_EVERY_LIMIT = re.compile(
    r"job submit limit|submit(ted)? job limit|limit of \w+ jobs|too many (submitted )?jobs|maximum number of jobs|"
    r"MaxJobCount",
    re.IGNORECASE,
)
_FINAL_LIMIT = re.compile(r"PerJob|PerNode|Wall|Min(?!ute|s)|NotAllowed|TimeLimit|Invalid", re.IGNORECASE)
# What the same request meets again.
_REFUSED = re.compile(
    r"invalid|unrecognized|unknown option|not (permitted|valid|allowed|found|supported)|denied|cannot|can not|"
    r"more processors|exceed|too (large|long|big|small)|no such|must|required|require|NotSatisfied|"
    r"does not (exist|match)|PerJob|Wall|policy",
    re.IGNORECASE,
)
_NO_NODE = "Requested node configuration is not available"


def error_class(said: str) -> type[SlurmError]:
    """What the words of a client that failed are worth; final only where that is known."""
    if "Job dependency problem" in said:
        return DependencyError
    if limits := _LIMITS.findall(said):
        if any("Submit" in limit for limit in limits):
            return SubmitLimitError
        return RefusedError if any(map(_FINAL_LIMIT.search, limits)) else LaterError
    if _EVERY_LIMIT.search(said):
        return SubmitLimitError
    if _NO_NODE in said:
        return NoNodeError
    for words, kind in ((_ABSENT, ControllerAbsentError), (_LATER, LaterError), (_REFUSED, RefusedError)):
        if words.search(said):
            return kind
    return SlurmError


# What to do about a refusal, by its words; the first that fits.
_REFUSALS = {
    "inactive or drain|not available now": "wait until the partition is in service, or name another: slurm.partition",
    "submit ?job ?limit|MaxSubmit": "wait until some of your jobs have ended, or raise generation.problems_per_shard",
    "node configuration|node not available": (
        "ask for what nodes have: {section}.gpus, cpus, memory_gb, nodes, constraint; slurm.gpu_type; "
        "sinfo -o '%P %D %c %m %G %T' lists it"
    ),
    "account|association": "set slurm.account; sacctmgr show associations lists yours",
    "qos": "set slurm.qos; sacctmgr show associations lists yours",
    "partition": "set slurm.partition; sinfo -s lists them",
    "feature": "set {section}.constraint; sinfo -o '%P %f' lists features",
    "time limit": "lower {section}.minutes",
    "reservation": "set {section}.options: {{reservation: NAME}}; scontrol show reservation lists them",
}

# Reasons of ordinary queues. All others are told: somebody may have to do something about them.
_ORDINARY = frozenset({"", "none", "priority", "resources", "dependency", "jobarraytasklimit", "begintime", "cleaning"})

# What to do about some of the others, by how they begin; the first that fits.
_HELD = {
    "jobheldadmin": "ask the site's operators",
    "job(held|requeuedinheld|holdmaxrequeue)|launchfailed|userenvretrievalfailed": "scontrol release {jobs}",
    "partition(timelimit|nodelimit)|badconstraints": (
        "change the profile's minutes, nodes or constraint, hpcmaf cancel, and submit again"
    ),
    "reqnodenotavail,reserved": "jobs that end before it start now: lower the profile's minutes",
    "dependencyneversatisfied": "hpcmaf cancel, and submit again",
}


def lifting(refusal: str, section: str = "slurm.generation") -> str:
    """What to do about a refusal of sbatch to a job of this section of the profile."""
    found = (remedy for words, remedy in _REFUSALS.items() if re.search(words, refusal, re.IGNORECASE))
    return next(found, "change {section} until sbatch --test-only takes it").format(section=section)


def ordinary(reason: str) -> bool:
    """Whether a job that waits for this reason starts by itself, as queues move."""
    return plain(reason) in _ORDINARY


def releasing(reason: str, jobs: Sequence[str]) -> str:
    """What to do about jobs that wait for a reason; empty where there is nothing to do but wait."""
    found = (remedy for words, remedy in _HELD.items() if re.match(words, plain(reason)))
    return next(found, "").format(jobs=",".join(jobs[:8]))


def plain(reason: str) -> str:
    """A reason as it can be compared: Slurm writes ``launch failed requeued held`` and ``JobHeldUser``."""
    return re.sub(r"[\s_()]", "", reason).lower()
