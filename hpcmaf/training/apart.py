"""A checkpoint that another process reads into the GPU's memory; see :mod:`hpcmaf.training.reader`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hpcmaf.training.driver import Driver, DriverError

if TYPE_CHECKING:
    import torch


class ReadApart:
    """Begins to read at once.

    Parameters
    ----------
    files
        The checkpoint's safetensors.
    device
        The GPU's number.
    """

    def __init__(self, files: list[Path], device: int) -> None:
        self._device = device
        command = [sys.executable, "-m", "hpcmaf.training.reader", str(device), *map(str, files)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Wait for it, and copy its tensors into memory of PyTorch's; it gives back its own, and ends.

        Raises
        ------
        DriverError
            The other process could not, or what it shares cannot be used here.
        OSError, ValueError
            A file's layout cannot be read.
        """
        import torch

        from hpcmaf.training.layout import stored

        try:
            said = self._said()
            device = torch.device("cuda", self._device)
            driver = Driver(self._device)
            driver.begin()
            driver.use()
            tensors = {}
            for name, size, shared in said:
                file = Path(name)
                there = driver.open(bytes.fromhex(shared))
                for entry in stored(file):
                    if entry.end > size:
                        raise ValueError(f"{file}: has grown meanwhile")
                    tensors[entry.name] = made = entry.make(device)
                    if made.nbytes:
                        driver.copy_within(made.data_ptr(), there + entry.begin, made.nbytes)
                driver.wait_for_all()
                driver.close(there)
            return tensors
        finally:
            self.end()

    def _said(self) -> list[list]:
        line = self._process.stdout.readline() if self._process.stdout is not None else b""
        try:
            said = json.loads(line)
        except ValueError as error:
            raise DriverError(f"the process that reads them ended with {self._process.wait()}") from error
        if "error" in said:
            raise DriverError(said["error"])
        return said["shared"]

    def end(self) -> None:
        """Let it go."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        # It may be reading yet, for nobody.
        self._process.kill()
        self._process.wait()
