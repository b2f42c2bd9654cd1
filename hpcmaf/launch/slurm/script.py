"""One job as sbatch gets it: its name, its resources, the lines around its work.

Functions of plan and profile, so that ``hpcmaf plan`` shows what ``hpcmaf submit`` sends.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import submitit

from hpcmaf.config.profile import Profile
from hpcmaf.errors import ConfigError
from hpcmaf.jobs.context import limit_threads
from hpcmaf.launch.slurm.submissions import Element
from hpcmaf.run.plan import Stage

# Slurm's default, for when nobody can be asked.
DEFAULT_MAX_ARRAY_SIZE = 1001


def array_limit(configuration: Mapping[str, str]) -> int:
    """Most tasks of one job array, as ``scontrol show config`` has it: the smaller of two limits, else the default.

    MaxArraySize bounds the largest index, ``max_array_tasks`` of SchedulerParameters the number of tasks.
    """
    options = dict(part.strip().partition("=")[::2] for part in configuration.get("SchedulerParameters", "").split(","))
    said = (configuration.get("MaxArraySize", ""), options.get("max_array_tasks", ""))
    limits = (int(value) for value in said if value.isdigit() and int(value) > 1)
    return min(limits, default=DEFAULT_MAX_ARRAY_SIZE)


@dataclass(frozen=True, slots=True)
class Window:
    """One job array, or one single job.

    Attributes
    ----------
    at_once
        Its share of the stage's limit; ``None`` for no limit.
    behind
        Position of the window that has to end before this one starts.
    """

    elements: tuple[Element, ...]
    at_once: int | None = None
    behind: int | None = None


def windows(
    stage: Stage, tasks: Sequence[str], profile: Profile, max_array_size: int, beside: Sequence[str] = ()
) -> list[Window]:
    """Jobs that do these tasks of a stage: arrays of shards, a job per agent or for some agents in turn.

    MaxArraySize is one more than the largest index Slurm takes, and every window starts at 0, so a window holds up to
    MaxArraySize elements. The windows differ by one element at most, and share the stage's limit; with fewer places
    than windows, the rest wait for those in front of them.

    Parameters
    ----------
    beside
        Tasks of another stage that jobs of shards do after their own.
    """
    per_job = profile.cluster.agents_per_job if stage.spec.fan_out == "agent" else 1
    elements = [tuple(tasks[first : first + per_job]) for first in range(0, len(tasks), per_job)]
    if beside:
        others = [(task,) for task in beside]
        elements = [own + other for own, other in zip_longest(elements, others, fillvalue=())]
    at_once = profile.cluster.resources(stage.spec.resources).at_once
    count = -(-len(elements) // (max_array_size if stage.spec.fan_out == "shard" else 1))
    places = min(count, at_once or count)
    result = []
    for k in range(count):
        part = tuple(elements[k * len(elements) // count : (k + 1) * len(elements) // count])
        share = None if at_once is None else at_once // places + (k % places < at_once % places)
        result.append(Window(part, share, k - places if k >= places else None))
    return result


def run_tag(root: Path, nonce: str) -> str:
    """What all of a run's job names begin with; no two runs share it."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", root.resolve().name).strip("-")[:24] or "run"
    return f"{readable}-{hashlib.sha256(f'{root.resolve()}:{nonce}'.encode()).hexdigest()[:8]}"


def job_name(tag: str, stage_id: str, element: Element | None, sequence: int, *, gate: bool = False) -> str:
    """A job's name: run, iteration, stage, agents, and a number no other submission has."""
    parts = [tag, stage_id.replace("/", ".")]
    if element is not None:
        parts.append(element[0] if len(element) == 1 else f"{element[0]}_{len(element)}")
    if gate:
        parts.append("gate")
    return ".".join([*parts, f"{sequence:04d}"])


def parameters(
    profile: Profile,
    section: str,
    *,
    name: str,
    after: Sequence[str] = (),
    exclude: Sequence[str] = (),
    at_once: int | None = None,
) -> dict[str, Any]:
    """Parameters of ``submitit.SlurmExecutor`` for a job.

    Parameters
    ----------
    section
        Of the profile's ``slurm:``, whose resources it asks for.
    after
        Job ids that must have ended, however they did.
    exclude
        Nodes to avoid besides the profile's.
    at_once
        Most elements of the array running together.
    """
    cluster = profile.cluster
    wanted = cluster.resources(section)
    options: dict[str, Any] = {"requeue": True, **cluster.options, **wanted.options}
    values: dict[str, Any] = {
        "job_name": name,
        "time": wanted.minutes,
        "nodes": wanted.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": wanted.cpus,
        "signal_delay_s": min(cluster.signal_seconds, 30 * wanted.minutes),
        "wckey": None,
        "setup": [*cluster.setup, *_exports(profile, section)],
    }
    for key in ("account", "partition", "qos", "constraint"):
        values[key] = getattr(wanted, key) or getattr(cluster, key)
    if wanted.memory_gb is not None:
        # 0 is Slurm's word for all of a node's.
        values["mem"] = f"{max(1, round(wanted.memory_gb * 1024))}M" if wanted.memory_gb else "0"
    if wanted.gpus:
        typed = f"{cluster.gpu_type}:{wanted.gpus}" if cluster.gpu_type else str(wanted.gpus)
        if cluster.gpu_option == "gres":
            values["gres"] = f"gpu:{typed}"
        else:
            options["gpus-per-node"] = typed
    if excluded := sorted({*cluster.exclude, *exclude}):
        values["exclude"] = ",".join(excluded)
    if after:
        values["dependency"] = dependency(after)
    if wanted.nodes > 1:
        # A node that is lost must not leave the others waiting for it.
        values["srun_args"] = ["--kill-on-bad-exit=0", "--wait=45"]
    if at_once is not None:
        values["array_parallelism"] = at_once
    values["additional_parameters"] = options
    return {key: value for key, value in values.items() if value is not None or key == "wckey"}


def as_gate(values: Mapping[str, Any], folder: Path, stopped: Path, begin: float | None) -> dict[str, Any]:
    """:func:`parameters` of a gate, which puts itself back into the queue when it fails before it can say why.

    A node without the run's file system would not even start a script whose output lies there: its output is opened by
    the script itself.

    Parameters
    ----------
    folder, stopped
        For its logs, and where the reason lies why the run goes no further.
    begin
        Seconds after which it starts.
    """
    again = _AGAIN.replace("STOPPED", shlex.quote(str(stopped))).replace("FOLDER", shlex.quote(str(folder)))
    options = values["additional_parameters"] | {"output": "/dev/null", "error": "/dev/null"}
    if begin is not None:
        options["begin"] = f"now+{round(begin)}"
    return {**values, "setup": [*again.splitlines(), *values["setup"]], "additional_parameters": options}


# Elsewhere, as it may be the node that is at fault, unless the controller is away, which is waited for. A gate that was
# cancelled or requeued runs no longer, and one that left a reason has nothing to try.
_AGAIN = """\
again() {
  local code=$? job='' bad away=''
  trap '' TERM USR2
  if [ $code = 0 ] || [ -e STOPPED ] || [ "${SLURM_RESTART_COUNT:-0}" -ge 30 ]; then exit $code; fi
  for _ in {1..90}; do
    job=$(scontrol show job -o "$SLURM_JOB_ID") && break
    away=yes; sleep 10
  done
  case $job in *" JobState=RUNNING "*) ;; *) exit $code ;; esac
  bad=$(echo "$job" | sed -n 's/.*ExcNodeList=\\([^ (]*\\).*/\\1/p')
  scontrol requeue "$SLURM_JOB_ID" || exit $code
  [ -n "$away" ] || scontrol update jobid="$SLURM_JOB_ID" ExcNodeList="${bad:+$bad,}$SLURMD_NODENAME"
}
trap again EXIT
cd FOLDER || exit 1
exec >>"${SLURM_JOB_ID}_0_log.out" 2>>"${SLURM_JOB_ID}_0_log.err"
cd "$SLURM_SUBMIT_DIR"
"""


def dependency(after: Sequence[str]) -> str:
    """``--dependency`` of a job that starts when others have ended, however they did."""
    return "afterany:" + ":".join(after)


def _exports(profile: Profile, section: str) -> list[str]:
    values = dict(limit_threads(profile.threads(section)))
    # srun has not taken the batch job's --cpus-per-task over since Slurm 22.05.
    values["SRUN_CPUS_PER_TASK"] = str(profile.cluster.resources(section).cpus)
    return [f"export {name}={value}" for name, value in values.items()]


# A preempted job that ends by itself is not put back into the queue, and one whose Python is still starting has nothing
# to save: deaf until it has handlers of its own, it is ended and requeued by Slurm.
_DEAF = """sh -c 'trap "" USR2 TERM; exec "$@"' sh"""


def batch_script(folder: Path, python: str | None, values: Mapping[str, Any], elements: int = 1) -> str:
    """The script of an array, or of a single job, as sbatch gets it.

    Parameters
    ----------
    folder
        The submission's, which has its logs.
    python
        The profile's.
    values
        As :func:`parameters` makes them.
    elements
        Size of the array; 1 is a job without one.
    """
    return _Executor(folder, python=python).script(values, elements)


class _Executor(submitit.SlurmExecutor):
    """submitit's own text; it has no public way to that of an array."""

    @classmethod
    def affinity(cls) -> int:
        """Whether submitit may use this class: also where Slurm's commands are not installed."""
        return 2

    def script(self, values: Mapping[str, Any], elements: int) -> str:
        self.update_parameters(**values)
        if elements > 1:
            # submitit always sets a limit; no limit is one nobody reaches.
            self.parameters = {"array_parallelism": elements, **self.parameters, "map_count": elements}
        else:
            self.parameters.pop("array_parallelism", None)
        command = f"{_DEAF} {self.python} -u -m hpcmaf.launch.slurm.job {shlex.quote(str(self.folder))}"
        return self._make_submission_file_text(command, "")


def check_path(root: Path) -> None:
    """Refuse run directories whose path Slurm cannot be told.

    Raises
    ------
    ConfigError
        Slurm replaces ``%`` in the paths of logs, and a batch script is made of lines.
    """
    path = str(root.resolve())
    if "%" in path or "\\" in path or not path.isprintable():
        raise ConfigError(
            f"{path!r}: Slurm cannot write logs below a path with %, a backslash or a line break; choose another --run"
        )
