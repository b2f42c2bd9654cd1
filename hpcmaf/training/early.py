"""A frozen base on its way to the GPU while the process that wants it is importing.

Both take seconds, and one is copying while the other is Python.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from hpcmaf.training.spec import FinetuneJob

if TYPE_CHECKING:
    import torch

# Copying needs Python's lock for a moment after each tensor, and a process that imports holds it for as long as
# this, in seconds, after it is asked for it; Python's own is 5 ms.
_SWITCH_S = 2e-4


class EarlyWeights:
    """Tensors of a checkpoint, read by a thread.

    Parameters
    ----------
    files
        Its safetensors.
    device
        Where they are to lie, such as ``"cuda:0"``. A GPU gets them only if it has room for twice as much.
    """

    def __init__(self, files: list[Path], device: str) -> None:
        self.device = device
        self._files = files
        self._tensors: dict[str, torch.Tensor] | None = None
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
        import safetensors  # noqa: F401  # before the thread wants it: the other one holds imports' locks from here on
        import torch

        in_parts = job.zero_stage == 3 or job.offload != "none"
        if job.tuning != "lora" or in_parts or job.quantize == "4bit" or job.trust_remote_code:
            return None
        files = checkpoint_files(Path(job.base))
        cuda = job.device != "cpu" and torch.cuda.is_available()
        if not files or (cuda and local_rank >= torch.cuda.device_count()):
            return None
        return cls(files, f"cuda:{local_rank}" if cuda else "cpu")

    def take(self) -> dict[str, torch.Tensor] | None:
        """The tensors, once; ``None`` if they could not be read, or there was no room: they are loaded as ever then."""
        self._reading.join()
        tensors, self._tensors = self._tensors, None
        return tensors

    def _read(self) -> None:
        import torch
        from safetensors import SafetensorError, safe_open

        tensors: dict[str, torch.Tensor] = {}
        before = sys.getswitchinterval()
        try:
            if self.device != "cpu":
                sys.setswitchinterval(_SWITCH_S)
                size = sum(file.stat().st_size for file in self._files)
                if 2 * size > torch.cuda.mem_get_info(torch.device(self.device))[0]:
                    return
            for file in self._files:
                with safe_open(file, framework="pt", device=self.device) as opened:
                    for name in opened.keys():
                        tensors[name] = opened.get_tensor(name)
            self._tensors = tensors
        except (OSError, SafetensorError, RuntimeError) as error:
            # A damaged file, or what CUDA says; any other is a defect, and Python prints it. Whether it ends the job
            # is found out where the weights are loaded once more.
            print(f"weights: not read beside the imports ({' '.join(str(error).split())[:300]})", flush=True)
        finally:
            sys.setswitchinterval(before)


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
