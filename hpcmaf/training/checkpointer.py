"""Checkpoints written and read by a job's processes together."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deepspeed
import torch

from hpcmaf.errors import TrainingError
from hpcmaf.files.publish import atomic_path, sync_folder
from hpcmaf.seeding import derive_seed
from hpcmaf.training.checkpoint import WORLD_SIZE, Checkpoint, at_step, identity, newest, patiently
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.failure import explained
from hpcmaf.training.process import Process

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

_TAG = "state"
# Changes where the same job gives other digits than before; its checkpoints are then another job's.
_NUMERICS = 2
# Checkpoints take at most one part in so many of a job's time, however slow the disk is.
_SHARE = 20


class Checkpointer:
    """Decides when a checkpoint is due, writes it, and finds the one to resume from.

    Every method but :meth:`due` has to be called by all processes together.

    Parameters
    ----------
    started
        Unix time at which the job began.

    Attributes
    ----------
    identity
        Of the job in these processes, see :func:`hpcmaf.training.checkpoint.identity`.
    found
        The job's last checkpoint, to :meth:`resume` from.
    """

    def __init__(self, job: FinetuneJob, process: Process, dtype: torch.dtype, started: float) -> None:
        self._job, self._process, self._lora = job, process, job.tuning == "lora"
        self._root = Path(job.checkpoints) if job.checkpoints else None
        self._started = started
        self._random = f"random-{process.rank:05d}.pt"
        self._last, self._pause = time.monotonic(), job.checkpoint_seconds
        self.identity = identity(
            job,
            **{WORLD_SIZE: process.world_size},
            weights=f"{dtype} on {process.device.type}",
            versions=[torch.__version__, deepspeed.__version__],
            numerics=_NUMERICS,
        )
        self.found = self._find()

    @property
    def converts(self) -> bool:
        """Whether it is of another number of processes, and converted on its way."""
        return self.found is not None and self.found.identity[WORLD_SIZE] != self._process.world_size

    @property
    def earlier_seconds(self) -> float:
        """Wall time that went into it."""
        return self.found.seconds if self.found is not None else 0.0

    def resume(self, engine: DeepSpeedEngine) -> list[float]:
        """Let an engine resume from the checkpoint that was found; returns the losses of the steps done already.

        Raises
        ------
        TrainingError
            The checkpoint is damaged; it is set aside.
        OSError, RuntimeError
            It cannot be read now, and stays as it is.
        """
        found = self.found
        if found is not None:
            try:
                if self.converts:
                    self._load_converted(engine, found)
                else:
                    _load(engine, found.folder, strict=not self._lora)
                    self._restore_random(torch.load(found.folder / self._random, weights_only=True))
            except Exception as error:  # damaged pickles raise almost anything
                if explained(error).kind == "defect" and _damaged(found):
                    # The next attempt resumes from the one before it.
                    found.set_aside()
                    raise TrainingError(
                        f"{found.folder}: damaged ({explained(error).message}) and set aside; "
                        "the same command resumes from the one before it",
                        kind="torn",
                    ) from error
                raise
            if self._process.first:
                print(f"resuming from step {found.step} ({found.folder})", flush=True)
        self._last = time.monotonic()
        return list(found.losses) if found else []

    def due(self, step: int) -> bool:
        """Whether a checkpoint should follow ``step``; rank 0 decides for all."""
        if self._root is None or not self._process.first:
            return False
        by_steps = self._job.checkpoint_steps
        return time.monotonic() - self._last >= self._pause or (by_steps is not None and step % by_steps == 0)

    def save(self, engine: DeepSpeedEngine, losses: Sequence[float]) -> None:
        """Publish a checkpoint of the steps done so far, of which these are the losses."""
        if self._root is None:
            return
        began, step = time.monotonic(), len(losses)
        folder, first = at_step(self._root, step), self._process.first
        with atomic_path(folder) if first else nullcontext() as own:
            if own is not None:
                own.mkdir()
            temporary = self._process.shared(own)
            try:
                engine.save_checkpoint(str(temporary), _TAG, save_latest=False, exclude_frozen_parameters=self._lora)
                torch.save(self._random_state(), temporary / self._random)
            except RuntimeError:
                _explain(temporary)
                raise
            self._process.barrier()
            # Each process, as a node's files may be in that node's memory yet.
            sync_folder(temporary)
            self._process.barrier()
        if first:
            seconds = self.earlier_seconds + time.time() - self._started
            Checkpoint.publish(folder, losses, seconds, self.identity)
            print(f"checkpoint after step {step} ({time.monotonic() - began:.1f} s)", flush=True)
        self._last = time.monotonic()
        self._pause = max(self._job.checkpoint_seconds, _SHARE * (self._last - began))

    def _find(self) -> Checkpoint | None:
        if self._root is None:
            return None
        found = None
        # On a shared file system not everyone sees the same at once.
        if self._process.first:
            for torn in self._root.glob(".step-*.tmp"):
                shutil.rmtree(torn, ignore_errors=True)
            found = newest(self._root, self.identity)
        return self._process.shared(found)

    def _load_converted(self, engine: DeepSpeedEngine, checkpoint: Checkpoint) -> None:
        """Of another number of processes, through DeepSpeed's universal checkpoint.

        What the others drew at random has no counterpart here, and is drawn afresh.
        """
        own = None
        try:
            if self._process.first:
                print(f"converting a checkpoint of {checkpoint.identity[WORLD_SIZE]} processes", flush=True)
                own = Path(tempfile.mkdtemp(prefix=".step-", suffix=".tmp", dir=self._root))
                _convert(checkpoint.folder / _TAG, own / _TAG)
            folder = self._process.shared(own)
            decays = [group["weight_decay"] for group in engine.optimizer.param_groups]
            _load(engine, folder, strict=False)
            # ZeRO-3 gives all groups the settings of the first,
            for group, decay in zip(engine.optimizer.param_groups, decays, strict=True):
                group["weight_decay"] = decay
            # and one and the same counter of steps, which each of them would advance.
            for state in getattr(engine.optimizer, "optimizer", engine.optimizer).state.values():
                if "step" in state:
                    state["step"] = deepcopy(state["step"])
            self._process.barrier()
        finally:
            if own is not None:
                shutil.rmtree(own, ignore_errors=True)
        job = self._job
        seed = derive_seed(job.seed, job.iteration, job.agent, "dropout", self._process.rank, checkpoint.step)
        random.seed(seed)
        torch.manual_seed(seed)

    def _random_state(self) -> dict[str, Any]:
        cuda = {"cuda": torch.cuda.get_rng_state()} if self._process.cuda else {}
        return {"python": random.getstate(), "torch": torch.get_rng_state()} | cuda

    def _restore_random(self, state: dict[str, Any]) -> None:
        random.setstate(state["python"])
        torch.set_rng_state(state["torch"])
        if self._process.cuda:
            torch.cuda.set_rng_state(state["cuda"])


def _load(engine: DeepSpeedEngine, folder: Path, *, strict: bool) -> None:
    loaded, _ = engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=strict)
    if loaded is None:
        raise ValueError("DeepSpeed finds no state in it")


def _convert(state: Path, out: Path) -> None:
    """Put the processes' parts in ``state`` together, by DeepSpeed's script, in a folder of this job's alone."""
    out.mkdir(parents=True)
    # Stages 1 and 2 lack what only DeepSpeed's own tensor parallelism needs.
    options = ("--num_extract_workers=1", "--num_merge_workers=1", "--inject_missing_state")
    script = [sys.executable, "-P", "-m", "deepspeed.checkpoint.ds_to_universal"]
    command = [*script, f"--input_folder={state}", f"--output_folder={out}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(f"{state}: cannot be converted ({lines[-1] if lines else done.returncode})")


def _explain(folder: Path) -> None:
    """Raise the operating system's reason for not writing here, which PyTorch's writer does not report."""
    with open(folder / "probe", "wb") as file:
        file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())


def _damaged(checkpoint: Checkpoint) -> bool:
    """Whether a file can be read and not understood; raises ``OSError`` where it cannot be read now."""
    for name in checkpoint.files:
        content = patiently((checkpoint.folder / name).read_bytes)
        try:
            torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
        except MemoryError:
            raise
        except Exception:  # as above
            return True
    return False
