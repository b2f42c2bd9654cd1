"""What srun starts: ``python -m hpcmaf.launch.slurm.job FOLDER``.

Gives this job its pickle under the name submitit looks for, and hands over to submitit. The name has the job's id in
it, which nobody knows before the job exists; linking it here rather than renaming it after sbatch leaves no moment in
which a job could start without.
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
    index, array = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")), os.environ.get("SLURM_ARRAY_JOB_ID")
    job_id = f"{array}_{index}" if array else os.environ["SLURM_JOB_ID"]
    source, copy = element_pickle(folder, index), folder / f"{uuid.uuid4().hex}.pkl"
    pickle, deadline = JobPaths(folder, job_id).submitted_pickle, time.monotonic() + PATIENCE_SECONDS
    while not pickle.exists():  # else a requeued job's own
        try:
            shutil.copyfile(source, copy)
            os.replace(copy, pickle)
        except OSError:
            # Another node wrote it, and this one may see it a little later.
            if time.monotonic() > deadline:
                raise
            with suppress(OSError):
                os.listdir(folder)  # has NFS ask the server again
            time.sleep(1)
    process_job(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
