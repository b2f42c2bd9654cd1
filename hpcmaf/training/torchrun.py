"""torchrun for one finetuning job, with its imports done once.

``torchrun SCRIPT`` imports torch in the agent and then everything in every
worker. Here the same elastic agent *forks* its workers after the imports: the
launch is the one torchrun makes (agent, c10d rendezvous, rank variables), and
a job saves an import of torch, and with P processes P - 1 imports of all.
CUDA is first touched in the workers, so forking is safe.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import uuid
from pathlib import Path

from hpcmaf.training.failure import recorded
from hpcmaf.training.spec import FinetuneJob

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Be told to stop when the process that started this one is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)


def main(arguments: list[str]) -> int:
    """Run the job in ``work``; see :func:`hpcmaf.training.worker.run` for the arguments."""
    parent, work, output, steps, started = arguments
    die_with_parent(int(parent))
    # Collecting garbage among ever more modules is 8% of the imports below.
    gc.disable()
    with recorded(Path(work)):
        job = FinetuneJob.read(Path(work) / "job.json")
        # What follows takes seconds and is shared by all workers.
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        from hpcmaf.training import worker

        worker.preload(job)
        # What is loaded stays: never look at it again, and let forks share its pages.
        gc.freeze()
        gc.enable()
        # "localhost:0" lets the rendezvous take a free port, so jobs on one
        # machine never meet.
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=job.processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            start_method="fork",
        )
    try:
        elastic_launch(config, worker.run)(work, output, steps, float(started))
    except ChildFailedError as error:
        # The worker has recorded why; the agent's summary belongs in the log.
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
