"""What srun starts: ``python -m hpcmaf.launch.slurm.job FOLDER``.

Gives this job its pickle under the name submitit looks for, and hands over to
submitit. The name has the job's id in it, which nobody knows before the job
exists; linking it here rather than renaming it after sbatch leaves no moment
in which a job could start without.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

from submitit.core.submission import process_job
from submitit.core.utils import JobPaths

from hpcmaf.launch.slurm.executor import element_pickle

# As long as submitit waits for its own.
PATIENCE_SECONDS = 60.0


def main(folder: Path) -> None:
    """Run this job's element."""
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job_id = f"{array}_{index}" if array else os.environ["SLURM_JOB_ID"]
    pickle = JobPaths(folder, job_id).submitted_pickle
    if not pickle.exists():  # else a requeued job's own
        copy = folder / f"{uuid.uuid4().hex}.pkl"
        _copy(element_pickle(folder, index), copy)
        os.replace(copy, pickle)
    process_job(folder)


def _copy(source: Path, copy: Path) -> None:
    """Copy a file that another node wrote, which this one may see a little later."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            shutil.copyfile(source, copy)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
        with suppress(OSError):
            os.listdir(source.parent)  # has NFS ask the server again
        time.sleep(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
