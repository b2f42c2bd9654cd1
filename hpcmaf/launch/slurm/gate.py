"""The gate: a one-CPU job behind a stage, which moves the chain on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from submitit.core.utils import DelayedSubmission

from hpcmaf.errors import HpcmafError, RunBusyError, one_line
from hpcmaf.launch.slurm.requests import Element
from hpcmaf.profile import load_profile
from hpcmaf.rundir import RunDir

if TYPE_CHECKING:
    from hpcmaf.launch.slurm.chain import Chain
    from hpcmaf.launch.slurm.task import Work

# Another gate, or somebody's submit, holds the run for seconds as a rule.
_HOLD_SECONDS = 900.0

# Looks at what was submitted before it is taken to be in good hands.
_SETTLE_LOOKS = 5


@dataclass(frozen=True)
class Gate:
    """Advances the run it belongs to; pickled by submitit.

    Parameters
    ----------
    root
        The run directory.
    work
        What the jobs that it submits run for each task.
    """

    root: str
    work: Work

    def __call__(self, element: Element) -> None:
        """Advance, see that it held, and write the report when all is done."""
        run = RunDir(Path(self.root))
        try:
            with hold(run):
                chain = self._chain(run)
                self._move(run, chain)
            if chain.submitted:
                self._settle(run, chain)
        except Exception as error:
            # Nobody watches: the reason has to lie where status looks.
            if not run.stopped.exists():
                from hpcmaf.launch.slurm.stopped import write_stop

                reason = one_line(str(error)) if isinstance(error, HpcmafError) else f"{type(error).__name__}: {error}"
                write_stop(run, f"the gate failed: {reason}", kind="gate", log=os.environ.get("SUBMITIT_FOLDER", ""))
            raise

    def checkpoint(self, element: Element) -> DelayedSubmission:
        """What a requeued gate runs: the same."""
        return DelayedSubmission(self, element)

    def _chain(self, run: RunDir) -> Chain:
        from hpcmaf.launch.slurm.chain import Chain

        profile = load_profile(str(run.profile))
        patience = 60 * profile.cluster.patience_minutes
        return Chain(
            run, run.load_plan(), profile, patience, own_job=os.environ.get("SLURM_JOB_ID", ""), work=self.work
        )

    def _move(self, run: RunDir, chain: Chain) -> None:
        gated = chain.cluster.chain == "gated"
        snapshot = chain.advance() if gated else chain.look()
        if not snapshot.unfinished():
            from hpcmaf.launch.recovery import sweep
            from hpcmaf.report import aggregate

            sweep(run, chain.plan)
            aggregate([run.root], run.report)
            print(f"all done; table and plot: {run.report}", flush=True)

    def _settle(self, run: RunDir, chain: Chain) -> None:
        """Stay until what was submitted has reached the controller's disk.

        A controller that crashes forgets the jobs of its last seconds, and
        with them the chain: this gate, older than they, would be the last.
        """
        for _ in range(_SETTLE_LOOKS):
            time.sleep(chain.cluster.settle_seconds)
            with hold(run):
                again = self._chain(run)
                snapshot = again.look()  # which releases what is held
                known = {job.id for job in snapshot.jobs}
                lost = any(sent.job not in known for sent in chain.submitted)
                if lost:
                    self._move(run, again)
            if not (lost or snapshot.held):
                break
            chain = again if lost else chain


@contextmanager
def hold(run: RunDir, seconds: float = _HOLD_SECONDS) -> Iterator[None]:
    """Hold the run, waiting for others to let go of it.

    Raises
    ------
    RunBusyError
        They did not.
    """
    deadline = time.monotonic() + seconds
    while True:
        drive = run.drive()
        try:
            drive.__enter__()
            break
        except RunBusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    try:
        yield
    finally:
        drive.__exit__(None, None, None)
