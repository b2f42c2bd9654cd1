"""A launcher as a scheduler starts it: ``JOB LOGS [PLACE]``; its signals ask the job to stop."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from hpcmaf.errors import HpcmafError
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.job import join_finetune, run_finetune
from hpcmaf.training.multinode import NodeRank
from hpcmaf.training.stop import StopFlag


def main(job: str, logs: str, place: str | None = None) -> int:
    """Run the job, or join it; exit with the error's own code and print its line."""
    stop = StopFlag()
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, stop.request)
    node = NodeRank(**json.loads(place)) if place else None
    try:
        if node is not None and node.rank > 0:
            join_finetune(node.work(Path(logs)), node, stop=stop)
        else:
            run_finetune(FinetuneJob.read(Path(job)), Path(logs), stop=stop, node=node)
    except HpcmafError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
