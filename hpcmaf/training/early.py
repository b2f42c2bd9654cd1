"""A frozen base on its way to the GPU while the process that wants it is importing.

Both take seconds, and one is copying while the other is Python.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from hpcmaf.imports.metas import metas_later
from hpcmaf.training.apart import ReadApart
from hpcmaf.training.driver import DriverError, installed
from hpcmaf.training.spec import FinetuneJob
from hpcmaf.training.warm import AttentionShape, attention_shape, be_alone, begin_cuda, load_kernels

if TYPE_CHECKING:
    import torch

# Copying needs Python's lock for a moment after each read, and a process that imports holds it for as long as
# this, in seconds, after it is asked for it; Python's own is 5 ms.
_SWITCH_S = 1e-3


class EarlyWeights:
    """Tensors of a checkpoint, read by a thread.

    Parameters
    ----------
    files
        Its safetensors.
    device
        Where they are to lie, such as ``"cuda:0"``. A GPU gets them only if it has room for twice as much.
    attention
        See :func:`hpcmaf.training.warm.attention_shape`; what that needs is loaded and tried meanwhile.
    context
        Makes the GPU's context, and is waited for.
    apart
        Another process that reads them, where there is one.
    fills
        Whether the job will have as large passes as the GPU's memory allows, which is taken meanwhile.
    """

    def __init__(
        self,
        files: list[Path],
        device: str,
        attention: AttentionShape | None = None,
        context: Thread | None = None,
        apart: ReadApart | None = None,
        fills: bool = False,
    ) -> None:
        self.device = device
        self._files, self._attention, self._context, self._apart = files, attention, context, apart
        self._fills = fills
        self._made: Callable[[], dict[str, torch.Tensor]] | None = None
        self._trying: Thread | None = None
        self._reading = Thread(target=self._read, daemon=True)
        self._reading.start()

    @classmethod
    def of(cls, job: FinetuneJob, local_rank: int) -> EarlyWeights | None:
        """Begin to read what a job will want whole; ``None`` where that is nothing, or not known yet.

        Parameters
        ----------
        local_rank
            This process's number on its machine, and its GPU's.
        """
        base, apart, context = Path(job.base), None, None
        in_parts = job.zero_stage == 3 or job.offload != "none"
        unwanted = job.tuning != "lora" or in_parts or job.quantize == "4bit" or job.trust_remote_code
        files = [] if unwanted else checkpoint_files(base)
        if job.device != "cpu" and installed():
            apart = ReadApart(files, local_rank) if files else None
            context = Thread(target=begin_cuda, args=(local_rank,), daemon=True)
            context.start()
        # All before the thread wants it: the other one holds imports' locks from here on.
        metas_later()
        import safetensors  # noqa: F401
        import torch

        from hpcmaf.training import attention, onto, reserve  # noqa: F401

        if not files:
            return None
        if job.device == "cpu" or not torch.cuda.is_available():
            if apart is not None:
                apart.end()
            return cls(files, "cpu")
        fills = job.gradient_checkpointing == "auto"
        return cls(files, f"cuda:{local_rank}", attention_shape(base, job.dtype), context, apart, fills)

    def take(self) -> dict[str, torch.Tensor] | None:
        """The tensors, once; ``None`` if they could not be read, or there was no room: they are loaded as ever then."""
        self._reading.join()
        made, self._made = self._made, None
        tensors = made() if made is not None else None
        if tensors is not None and self._attention is not None:
            self._trying = Thread(target=self._try, daemon=True)
            self._trying.start()
        return tensors

    def ready(self) -> None:
        """Wait for what was begun when the tensors were taken."""
        if self._trying is not None:
            self._trying.join()

    def _try(self) -> None:
        import torch

        from hpcmaf.training.attention import varlen_works

        dtype, *heads = self._attention or ("",)
        with torch.cuda.device(self.device):
            # It remembers.
            varlen_works(torch.device(self.device), getattr(torch, dtype), *heads)

    def _read(self) -> None:
        from safetensors import SafetensorError

        before = sys.getswitchinterval()
        try:
            self._made = self._mapped() if self.device == "cpu" else self._copied()
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            # A damaged file, or what CUDA says; any other is a defect, and Python prints it. Whether it ends the job
            # is found out where the weights are loaded once more.
            print(f"weights: not read beside the imports ({' '.join(str(error).split())[:300]})", flush=True)
        finally:
            sys.setswitchinterval(before)

    def _mapped(self) -> Callable[[], dict[str, torch.Tensor]]:
        from safetensors import safe_open

        tensors = {}
        for file in self._files:
            with safe_open(file, framework="pt", device="cpu") as opened:
                tensors |= {name: opened.get_tensor(name) for name in opened.keys()}
        return lambda: tensors

    def _copied(self) -> Callable[[], dict[str, torch.Tensor]] | None:
        import torch

        from hpcmaf.training.onto import read_onto
        from hpcmaf.training.reserve import reserve_early

        device = torch.device(self.device)
        if self._context is not None:
            self._context.join()

        def read() -> Callable[[], dict[str, torch.Tensor]] | None:
            with torch.cuda.device(device):
                try:
                    if self._apart is not None:
                        return self._apart.read()
                except DriverError as error:
                    print(f"weights: not read by another process ({error})", flush=True)
                if 2 * sum(file.stat().st_size for file in self._files) > torch.cuda.mem_get_info(device)[0]:
                    return None
                sys.setswitchinterval(_SWITCH_S)
                tensors = read_onto(self._files, device)
                return lambda: tensors

        with torch.cuda.device(device), ThreadPoolExecutor(1) as beside:
            reading = beside.submit(read)
            if self._attention is not None:
                load_kernels(device, *self._attention)
            if os.environ.get("WORLD_SIZE") == "1":
                be_alone(cuda=True)
            made = reading.result()
            if self._fills:
                reserve_early(device)
            return made


def checkpoint_files(folder: Path) -> list[Path]:
    """A local checkpoint's safetensors, as its index names them; none where there are none."""
    index, whole = folder / "model.safetensors.index.json", folder / "model.safetensors"
    try:
        if whole.is_file():
            return [whole]
        names = json.loads(index.read_text())["weight_map"].values()
        files = [folder / name for name in sorted(set(names))]
        return files if all(file.is_file() for file in files) else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
