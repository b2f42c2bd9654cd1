"""The first seconds of one of a job's processes, which has imported nothing heavy yet."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from hpcmaf.training.early import EarlyWeights
from hpcmaf.training.failure import recorded
from hpcmaf.training.orders import Order
from hpcmaf.training.spec import FinetuneJob
from hpcmaf.training.stopping import asked


def apart(job: FinetuneJob) -> bool:
    """Whether each of a job's processes imports for itself.

    Several on CPU share the imports instead, and cores. One for itself can
    copy weights to its GPU meanwhile, which a process must not have touched
    that others are forked from.
    """
    import torch

    return job.processes == 1 or (job.device != "cpu" and torch.cuda.is_available())


def run(work: str, output: str, steps: str, started: float, node: int | None = None) -> None:
    """As :func:`hpcmaf.training.worker.run`, with what that needs imported first."""
    job, early = _imported(work)
    if job.alone and asked(Path(work)):
        return  # several would first have to agree
    from hpcmaf.training import worker

    worker.run(work, output, steps, started, node, early)


def serve(inbox: str) -> None:
    """As :func:`hpcmaf.training.worker.serve`."""
    _, early = _imported(Order.last(Path(inbox)).work)
    from hpcmaf.training import worker

    worker.serve(inbox, early)


def _imported(work: str) -> tuple[FinetuneJob, EarlyWeights | None]:
    gc.disable()
    with recorded(Path(work)):
        job = FinetuneJob.read(Path(work) / "job.json")
        early = EarlyWeights.of(job, int(os.environ["LOCAL_RANK"]))
        from hpcmaf.training import worker

        worker.preload(job)
        # What is loaded stays, so never look at it again; nor at a model while it is made, see finetune.py.
        gc.freeze()
    return job, early


def settle() -> None:
    """After imports: what is loaded stays, so never look at it again, and let forks share its pages."""
    gc.freeze()
    gc.enable()
