"""A file that HDF5 may write to on a disk that fills up.

HDF5 cannot give up a file whose last blocks it failed to write: closing it
fails too, and the process later dies of a segmentation fault
(h5py issues 914, 1120). So HDF5 writes through this object, which never tells
it of a failure. Its first one is kept for the caller, who throws the file
away; what comes after it is held in memory until the file is closed.
"""

from __future__ import annotations

import os
from pathlib import Path


class Sink:
    """A new file with the methods that h5py's ``fileobj`` driver calls.

    Parameters
    ----------
    path
        Must not exist yet.

    Attributes
    ----------
    error
        The first failure, or ``None``.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb+", buffering=0)
        self._at = 0
        self._size = 0
        self._lost: list[tuple[int, bytes]] = []
        self.error: BaseException | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move within the file as HDF5 knows it."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        """Where the next read or write happens."""
        return self._at

    def write(self, data: memoryview) -> int:
        """Write all of ``data``, or keep it and the reason why not."""
        at, rest = self._at, memoryview(data).cast("B")
        self._at += len(rest)
        self._size = max(self._size, self._at)
        if self.error is None:
            try:
                self._file.seek(at)
                while rest:
                    written = self._file.write(rest)
                    at, rest = at + written, rest[written:]
            except BaseException as error:  # noqa: BLE001 - interrupts, too, must get past HDF5; check() raises it
                self.error = error
        if rest:
            self._lost.append((at, bytes(rest)))
        return len(data)

    def read(self, size: int) -> bytes:
        """Read ``size`` bytes; h5py recognises a file object by this method."""
        data = bytearray(size)
        self.readinto(memoryview(data))
        return bytes(data)

    def readinto(self, buffer: memoryview) -> int:
        """Read back metadata, lost writes included."""
        view = memoryview(buffer).cast("B")
        found = 0
        try:
            self._file.seek(self._at)
            found = self._file.readinto(view)
        except BaseException as error:  # noqa: BLE001 - as above
            self.error = self.error or error
        view[found:] = bytes(len(view) - found)
        for at, data in self._lost:
            low, high = max(at, self._at), min(at + len(data), self._at + len(view))
            if low < high:
                view[low - self._at : high - self._at] = data[low - at : high - at]
        self._at += len(view)
        return len(view)

    def truncate(self, size: int) -> int:
        """Set the file's length."""
        self._size = size
        if self.error is None:
            try:
                self._file.truncate(size)
            except BaseException as error:  # noqa: BLE001 - as above
                self.error = error
        return size

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """Close the file; call after HDF5 has closed it."""
        self._lost.clear()
        self._file.close()

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self.error is not None:
            raise self.error
