"""One call of sbatch: an array, or a single job, from a folder of its own.

submitit makes the script. Its jobs need no pickles, as what they do stands in the log of submissions before sbatch is
called. An answer of sbatch that comes late or never is replaced by a look at the queue.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import submitit

from hpcmaf.config.slurm import Slurm
from hpcmaf.errors import SlurmError, one_line
from hpcmaf.files.publish import write_text
from hpcmaf.launch.slurm.commands import call, cancel, queue
from hpcmaf.launch.slurm.refusals import ControllerAbsentError

SCRIPT = "submission.sh"

# A preempted job that ends by itself is not put back into the queue, and one whose Python is still starting has nothing
# to save: deaf until it has handlers of its own, it is ended and requeued by Slurm.
_DEAF = """sh -c 'trap "" USR2 TERM; exec "$@"' sh"""


class ChainExecutor(submitit.SlurmExecutor):
    """The batch script of one array, or of one single job, from one folder.

    Parameters
    ----------
    folder
        Takes the script and logs; a folder per submission.
    cluster
        The profile's ``slurm:`` section.
    parameters
        As :func:`hpcmaf.launch.slurm.script.parameters` makes them.
    elements
        Size of the array; 1 is a job without one.
    """

    def __init__(self, folder: Path, cluster: Slurm, parameters: Mapping[str, Any], elements: int = 1) -> None:
        super().__init__(folder, python=cluster.python)
        self.update_parameters(**parameters)
        if elements > 1:
            # submitit always sets a limit; no limit is one nobody reaches.
            self.parameters = {"array_parallelism": elements, **self.parameters, "map_count": elements}
        else:
            self.parameters.pop("array_parallelism", None)

    @classmethod
    def affinity(cls) -> int:
        """Whether submitit may use this class: also to render scripts, where Slurm's commands are not installed."""
        return 2

    @property
    def _submitit_command_str(self) -> str:
        return f"{_DEAF} {self.python} -u -m hpcmaf.launch.slurm.job {shlex.quote(str(self.folder))}"

    def script(self) -> str:
        """The batch script, as sbatch gets it."""
        return self._make_submission_file_text(self._submitit_command_str, "")


def submit_script(folder: Path, cluster: Slurm, parameters: Mapping[str, Any], elements: int, patience: float) -> str:
    """Submit an array, or a single job, from a folder; returns Slurm's id of it.

    Raises
    ------
    SlurmError
        Slurm refused it, or did not answer for ``patience`` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / SCRIPT
    write_text(script, ChainExecutor(folder, cluster, parameters, elements).script())
    return submit_once(script, parameters["job_name"], cluster, patience)


def submit_once(script: Path, name: str, cluster: Slurm, patience: float) -> str:
    """Call sbatch until Slurm has the job, and has it once.

    sbatch may have been heard although its answer was not: before it is called again, the queue is asked for the name.

    Raises
    ------
    SlurmError
        Refused, or no answer within ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            answer = call(["sbatch", "--parsable", str(script)], seconds=cluster.command_seconds)
            if (told := job_id(answer)) is not None:
                return told
            silent = ControllerAbsentError(f"sbatch: no job's id in its answer: {one_line(answer)[-300:] or 'nothing'}")
            deadline = 0.0  # it was heard; twice would be two jobs
        except ControllerAbsentError as error:
            silent = error
        except SlurmError as error:
            if type(error) is not SlurmError:
                raise
            silent, deadline = error, 0.0  # a wrapper may fail behind an sbatch that did not
        if (known := _look_up(name, cluster, deadline)) is not None:
            return known
        if time.monotonic() > deadline:
            raise silent


def job_id(answer: str) -> str | None:
    """The id in what sbatch printed, among the lines that plugins and wrappers add."""
    lines = [line.strip() for line in answer.splitlines()]
    if plain := [line for line in lines if re.fullmatch(r"[0-9]+(;\S+)?", line)]:
        return plain[-1].partition(";")[0]
    told = re.findall(r"Submitted batch job ([0-9]+)", answer)
    return told[-1] if told else None


def _look_up(name: str, cluster: Slurm, deadline: float) -> str | None:
    """The job of this name, once the controller answers; the later of two is cancelled."""
    while True:
        time.sleep(min(5.0, cluster.command_seconds))
        try:
            jobs = queue(seconds=cluster.command_seconds)
        except ControllerAbsentError:
            if time.monotonic() > deadline:
                raise
            continue
        ids = sorted({job.id for job in jobs if job.name == name}, key=int)
        cancel(ids[1:], seconds=cluster.command_seconds)
        return ids[0] if ids else None
