"""A checkpoint that another process reads into the GPU's memory; see :mod:`hpcmaf.training.reader`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcmaf.training.driver import Driver, DriverError

if TYPE_CHECKING:
    import torch

    from hpcmaf.training.layout import Entry


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
        command = [sys.executable, "-P", "-m", "hpcmaf.training.reader", str(device), *map(str, files)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def read(self) -> Callable[[], dict[str, torch.Tensor]]:
        """Wait for it, and copy what it has read into memory of PyTorch's; it gives back its own, and ends.

        For a thread beside imports, so in as few calls as it takes: after each it waits until Python's lock is handed
        to it, up to 5 ms, and what imports waits to get it back.

        Returns
        -------
        Callable
            Makes the tensors, which is many calls.

        Raises
        ------
        DriverError
            The other process could not, or what it shares cannot be used here.
        OSError, ValueError
            A file's layout cannot be read.
        """
        import torch

        from hpcmaf.training.layout import cut, stored

        found: list[tuple[Entry, torch.Tensor]] = []
        try:
            said = self._said()
            device = torch.device("cuda", self._device)
            driver = Driver(self._device)
            driver.begin()
            driver.use()
            for name, size, shared in said:
                entries = stored(Path(name))
                if entries and entries[-1].end > size:
                    raise ValueError(f"{name}: has grown meanwhile")
                there = driver.open(bytes.fromhex(shared))
                found += zip(entries, cut(torch.as_tensor(_Bytes(there, size), device=device), entries), strict=True)
                torch.cuda.synchronize(device)
                driver.close(there)
        finally:
            self.end()
        return lambda: {entry.name: entry.of(part) for entry, part in found}

    def _said(self) -> list[list]:
        line = self._process.stdout.readline() if self._process.stdout is not None else b""
        if not line:
            raise DriverError(f"the process that reads them ended with {self._process.wait()}")
        said = json.loads(line)
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


@dataclass(frozen=True)
class _Bytes:
    """A GPU's memory, for PyTorch to look at."""

    address: int
    size: int

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": (self.size,), "typestr": "|u1", "data": (self.address, False), "version": 3}
