"""Checkpoints written and read by a job's processes together."""

from __future__ import annotations

import io
import os
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

from hpcmaf.errors import TrainingError
from hpcmaf.publish import sync
from hpcmaf.seeding import derive_seed
from hpcmaf.training import universal
from hpcmaf.training.checkpoint import WORLD_SIZE, Checkpoint, at_step, identity, newest, patiently, set_aside
from hpcmaf.training.failure import explained
from hpcmaf.training.place import Place
from hpcmaf.training.spec import FinetuneJob

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

_TAG = "state"
# Checkpoints take at most one part in so many of a job's time, however slow the disk is.
_SHARE = 20


class Keeper:
    """Decides when a checkpoint is due, writes it, and finds the one to go on from.

    Every method but :meth:`due` has to be called by all processes together.

    Parameters
    ----------
    started
        Unix time at which the job began.
    token
        Tells the temporaries of this attempt from others'; the same in all
        processes.
    """

    def __init__(
        self, engine: DeepSpeedEngine, job: FinetuneJob, place: Place, dtype: torch.dtype, *, started: float, token: str
    ) -> None:
        self._engine, self._job, self._place = engine, job, place
        self._root = Path(job.checkpoints) if job.checkpoints else None
        self._dtype, self._started, self._token = dtype, started, token
        self._identity: dict[str, Any] | None = None
        self._last, self._pause = time.monotonic(), job.checkpoint_seconds
        self.earlier_seconds = 0.0

    def resume(self) -> list[float]:
        """Go on from the job's last checkpoint, if it has one.

        Returns
        -------
        list of float
            Losses of the steps done already.

        Raises
        ------
        TrainingError
            The checkpoint is damaged; it is set aside.
        OSError, RuntimeError
            It cannot be read now, and stays as it is.
        """
        if self._root is None:
            return []
        # Rank 0 looks for all: on a shared file system not everyone sees the same at once.
        found = [None]
        if self._place.first:
            for torn in self._root.glob(".step-*.tmp"):
                shutil.rmtree(torn, ignore_errors=True)
            found = [newest(self._root, self._identify())]
        if self._place.processes > 1:
            dist.broadcast_object_list(found, device=self._place.device)
        checkpoint = found[0]
        if checkpoint is not None:
            self._load(checkpoint)
            self.earlier_seconds = checkpoint.seconds
            if self._place.first:
                print(f"going on from step {checkpoint.step} ({checkpoint.folder})", flush=True)
        self._last = time.monotonic()
        return list(checkpoint.losses) if checkpoint else []

    def due(self, step: int) -> bool:
        """Whether a checkpoint should follow ``step``; rank 0 decides for all."""
        if self._root is None or not self._place.first:
            return False
        by_steps = self._job.checkpoint_steps
        return time.monotonic() - self._last >= self._pause or (by_steps is not None and step % by_steps == 0)

    def save(self, losses: Sequence[float]) -> None:
        """Publish a checkpoint of the steps done so far, of which these are the losses."""
        if self._root is None:
            return
        began, step = time.monotonic(), len(losses)
        temporary = self._root / f".{at_step(self._root, step).name}.{self._token}.tmp"
        if self._place.first:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        writer = _SyncedWriter(self._engine.checkpoint_engine)
        self._engine.checkpoint_engine = writer
        try:
            # Waits for rank 0 to have made the folder.
            self._engine.save_checkpoint(
                str(temporary), tag=_TAG, save_latest=False, exclude_frozen_parameters=self._lora
            )
            writer.save(_random_state(self._place), str(temporary / self._random_name))
        finally:
            self._engine.checkpoint_engine = writer.inner
        own = {os.path.relpath(path, temporary): size for path, size in writer.written.items()}
        written = [own] * self._place.processes
        if self._place.processes > 1:
            dist.all_gather_object(written, own)
        if self._place.first:
            sync(temporary / _TAG)
            sync(temporary)
            seconds = self.earlier_seconds + time.time() - self._started
            files = {name: size for part in written for name, size in part.items()}
            folder = at_step(self._root, step)
            Checkpoint(folder, step, tuple(losses), seconds, self._identify(), files).publish(temporary)
            print(f"checkpoint after step {step} ({time.monotonic() - began:.1f} s)", flush=True)
        self._last = time.monotonic()
        self._pause = max(self._job.checkpoint_seconds, _SHARE * (self._last - began))

    @property
    def _lora(self) -> bool:
        return self._job.tuning == "lora"

    @property
    def _random_name(self) -> str:
        return f"random-{self._place.rank:05d}.pt"

    def _identify(self) -> dict[str, Any]:
        if self._identity is None:
            self._identity = identity(
                self._job,
                **{WORLD_SIZE: self._place.processes},
                weights=f"{self._dtype} on {self._place.device.type}",
                versions=[torch.__version__, deepspeed.__version__],
            )
        return self._identity

    def _load(self, checkpoint: Checkpoint) -> None:
        try:
            if checkpoint.identity[WORLD_SIZE] == self._place.processes:
                self._load_own(checkpoint)
            else:
                self._load_converted(checkpoint)
        except Exception as error:  # damaged pickles raise almost anything
            if explained(error).kind == "defect" and _damaged(checkpoint):
                # The next attempt resumes from the one before it.
                set_aside(checkpoint.folder)
                raise TrainingError(
                    f"{checkpoint.folder}: damaged ({explained(error).message}) and set aside; "
                    "the same command resumes from the one before it",
                    kind="torn",
                ) from error
            raise

    def _load_own(self, checkpoint: Checkpoint) -> None:
        loaded, _ = self._engine.load_checkpoint(str(checkpoint.folder), tag=_TAG, load_module_strict=not self._lora)
        if loaded is None:
            raise ValueError("DeepSpeed finds no state in it")
        _restore_random_state(torch.load(checkpoint.folder / self._random_name, weights_only=True), self._place)

    def _load_converted(self, checkpoint: Checkpoint) -> None:
        """Of another number of processes; what they drew at random has no counterpart here, and is drawn afresh."""
        folder = checkpoint.folder.with_name(f".{checkpoint.folder.name}.universal.{self._token}.tmp")
        if self._place.first:
            print(f"converting a checkpoint of {checkpoint.identity[WORLD_SIZE]} processes", flush=True)
        try:
            if self._place.first:
                universal.convert(checkpoint.folder / _TAG, folder / _TAG)
            if self._place.processes > 1:
                dist.barrier()
            universal.load(self._engine, folder, _TAG)
            if self._place.processes > 1:
                dist.barrier()
        finally:
            if self._place.first:
                shutil.rmtree(folder, ignore_errors=True)
        job = self._job
        seed = derive_seed(job.seed, job.iteration, job.agent, "dropout", self._place.rank, checkpoint.step)
        random.seed(seed)
        torch.manual_seed(seed)


class _SyncedWriter(TorchCheckpointEngine):
    """DeepSpeed's writer, but what it has written is on disk, and counted."""

    def __init__(self, inner: TorchCheckpointEngine) -> None:
        super().__init__()
        self.inner, self.written = inner, {}

    def save(self, state_dict: object, path: str) -> None:
        # Not by path: PyTorch's own file writer says nothing of why it failed.
        with open(path, "wb") as file:
            torch.save(state_dict, file)
            file.flush()
            os.fsync(file.fileno())
            self.written[path] = os.fstat(file.fileno()).st_size


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


def _random_state(place: Place) -> dict[str, Any]:
    state = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if place.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random_state(state: dict[str, Any], place: Place) -> None:
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if place.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"])
