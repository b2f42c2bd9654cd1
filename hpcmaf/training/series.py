"""Several jobs of one base, one after another, by processes that import and load it once.

An agent's data is small: starting a job, that is imports, rendezvous, and
the base's weights, takes as long as its training does. Here the processes of
one job stay for the next, keep the frozen base where it is, and prepare the
next job's data while they train.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from hpcmaf.training import orders
from hpcmaf.training.orders import Order
from hpcmaf.training.processes import Handed, serving
from hpcmaf.training.spec import FinetuneJob

# For processes to leave by themselves.
_LEAVING_S = 10.0


class Series:
    """Processes that outlive a job; a context manager, after which there are none.

    A job that fails or is stopped takes them along, and the next one starts
    others; so does one that wants other processes. Of one machine only.
    """

    def __init__(self) -> None:
        self._held = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._inbox = Path()
        self._shape: tuple[object, ...] = ()
        self._given = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            orders.end(self._inbox)
            try:
                self._process.wait(_LEAVING_S)
            except subprocess.TimeoutExpired:
                pass  # killed below
        self._drop()

    @contextmanager
    def hand_over(
        self, job: FinetuneJob, work: Path, output: Path, steps: Path, log: Path, coming: FinetuneJob | None
    ) -> Iterator[Handed]:
        """Have a job done, by the processes that did the last one if there are any.

        Parameters
        ----------
        work, output, steps, log
            As for :func:`hpcmaf.training.processes.torchrun`; ``work`` holds
            the job's file.
        coming
            The job that is likely to follow.
        """
        shape = (job.processes, job.threads, job.device)
        if self._process is None or self._process.poll() is not None or shape != self._shape:
            self.__exit__()
            self._inbox = Path(tempfile.mkdtemp(prefix="series-", dir=log.parent))
            self._held.callback(shutil.rmtree, self._inbox, ignore_errors=True)
            self._shape, self._given = shape, 0
        self._given += 1
        following = None
        if coming is not None:
            following = self._inbox / f"coming-{self._given:04d}.json"
            coming.write(following)
        paths = (str(path.resolve()) for path in (work, output, steps, log))
        Order(*paths, started=time.time(), coming=str(following) if following else None).give(self._inbox, self._given)
        if self._process is None:
            self._process = self._held.enter_context(serving(job, self._inbox, log))
        handed = Handed(self._process, work / "report.json")
        try:
            yield handed
        finally:
            # After a stopped job the processes are about to leave.
            if handed.poll() != 0 or handed.stopped or self._process.poll() is not None:
                self._drop()

    def _drop(self) -> None:
        self._held.close()
        self._held, self._process = ExitStack(), None
