"""The gate: a one-CPU job behind a stage, which moves the chain on.

A gate says "never" only when it knows: a task that failed for good, a request
that Slurm refuses, a defect. Whatever else comes in its way it waits out, and
then goes back into the queue to begin later.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from submitit.core.utils import DelayedSubmission

from hpcmaf.config.profile import Profile, load_profile
from hpcmaf.errors import HpcmafError, RunBusyError, SlurmError, failure_kind, one_line
from hpcmaf.launch.recovery import sweep
from hpcmaf.launch.slurm.chain import Chain
from hpcmaf.launch.slurm.commands import RefusedError, cancel, requeue, update
from hpcmaf.launch.slurm.nodes import restarts
from hpcmaf.launch.slurm.requests import Element, watch_seconds
from hpcmaf.launch.slurm.stopped import write_stop
from hpcmaf.launch.slurm.task import Work
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan

# Another gate, or somebody's submit, holds the run for seconds as a rule.
_HOLD_SECONDS = 900.0

# Looks at what was submitted before it is taken to be in good hands.
_SETTLE_LOOKS = 5

# Slurm's refusals in words that nobody knows are taken for good after so many times in the queue.
_MOST_REQUEUES = 48


@dataclass(frozen=True)
class Gate:
    """Advances the run it belongs to; pickled by submitit.

    Parameters
    ----------
    root
        The run directory.
    work
        What the jobs that it submits run for each task.
    patience
        Seconds to wait for what is away, before it goes back into the queue.
    watch
        Seconds after which the run is to be looked at though no job has ended.
    """

    root: str
    work: Work
    patience: float = 1800.0
    watch: float = 60.0

    @classmethod
    def of(cls, run: RunDir, profile: Profile, work: Work) -> Gate:
        """The first gate of a run."""
        patience = 60 * profile.cluster.patience_minutes
        return cls(str(run.root.resolve()), work, patience, watch_seconds(profile))

    def __call__(self, element: Element) -> None:
        """Advance, see that it held, and write the report when all is done."""
        run = RunDir(Path(self.root))
        deadline, pause = time.monotonic() + self.patience, 5.0
        while True:
            try:
                self._advance(run)
                return
            except Exception as error:
                why = one_line(str(error)) if isinstance(error, HpcmafError) else f"{type(error).__name__}: {error}"
                if not passing(error):
                    # Nobody watches: the reason has to lie where status looks.
                    if run.plan.exists() and not run.stopped.exists():
                        folder = os.environ.get("SUBMITIT_FOLDER", "")
                        write_stop(run, f"the gate failed: {why}", kind="gate", log=folder)
                    raise
            print(f"{why}; waiting {pause:g} s", flush=True)
            if time.monotonic() + pause > deadline:
                self._later()
            time.sleep(pause)
            pause = min(2 * pause, 30.0)

    def checkpoint(self, element: Element) -> DelayedSubmission:
        """What a requeued gate runs: the same."""
        return DelayedSubmission(self, element)

    def chain(self, run: RunDir, plan: Plan, profile: Profile, patience: float, own_job: str = "") -> Chain:
        """The chain that this gate, or somebody at the prompt, moves on."""

        def gate(watch: float) -> Gate:
            return replace(self, watch=watch)

        return Chain(run, plan, profile, gate, patience, self.watch, own_job, self.work)

    def _own_chain(self, run: RunDir) -> Chain:
        profile = load_profile(str(run.profile))
        return self.chain(run, run.load_plan(), profile, self.patience, os.environ.get("SLURM_JOB_ID", ""))

    def _later(self) -> None:
        """Go back into the queue; returns only where that fails."""
        job, seconds = os.environ.get("SLURM_JOB_ID", ""), max(60.0, self.patience)
        try:
            requeue(job, seconds=60.0)
            print(f"back into the queue, to begin in {seconds / 60:g} minutes", flush=True)
            update(job, StartTime=f"now+{round(seconds)}", seconds=60.0)
        except SlurmError as error:
            print(one_line(str(error)), flush=True)
        else:
            time.sleep(900)  # until Slurm ends it

    def _advance(self, run: RunDir) -> None:
        with hold(run):
            chain = self._own_chain(run)
            self._move(run, chain)
        if chain.submitted:
            self._settle(run, chain)

    def _move(self, run: RunDir, chain: Chain) -> None:
        gated = chain.cluster.chain == "gated"
        snapshot = chain.advance() if gated else chain.look()
        if not snapshot.unfinished():
            from hpcmaf.report import aggregate

            sweep(run, chain.plan)
            aggregate([run.root], run.report)
            print(f"all done; table and plot: {run.report}", flush=True)
            gates = [gate.job for gate in snapshot.gates if gate.job]
            cancel(gates, seconds=chain.cluster.command_seconds, pending_only=True)

    def _settle(self, run: RunDir, chain: Chain) -> None:
        """Stay until what was submitted has reached the controller's disk.

        A controller that crashes forgets the jobs of its last seconds, and
        with them the chain: this gate, older than they, would be the last.
        """
        for _ in range(_SETTLE_LOOKS):
            time.sleep(chain.cluster.settle_seconds)
            with hold(run):
                again = self._own_chain(run)
                snapshot = again.look()  # which releases what is held
                known = {job.id for job in snapshot.jobs}
                lost = any(sent.job not in known for sent in chain.submitted)
                if lost:
                    self._move(run, again)
            if not (lost or snapshot.held):
                break
            chain = again if lost else chain


def passing(error: Exception) -> bool:
    """Whether what came in a gate's way may be gone later."""
    if isinstance(error, SlurmError):
        unknown = type(error) is SlurmError
        return not isinstance(error, RefusedError) and not (unknown and restarts() >= _MOST_REQUEUES)
    return isinstance(error, RunBusyError) or failure_kind(error) in {"hardware", "lost", "memory"}


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
