"""The little of CUDA's driver that needs no PyTorch: memory, copies, and memory that two processes share."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_void_p

# Constants and signatures are those of cuda.h.
_COMPUTE_MODE, _FOR_EVERYBODY = 20, 0
_ENABLE_PEERS = 1
_LIBRARY = "libcuda.so.1"


class DriverError(RuntimeError):
    """What CUDA's driver says of a call that failed, or that there is none."""


class SharedMemory(ctypes.Structure):
    """A name for a GPU's memory under which another process finds it (``CUipcMemHandle``)."""

    _fields_ = (("reserved", ctypes.c_ubyte * 64),)


def installed() -> bool:
    """Whether there is a driver at all, found out in a moment."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return False
    return True


class Driver:
    """One GPU, by the driver alone.

    Addresses are integers. All calls leave Python's lock to others, and can
    be made by any thread that has called :meth:`use`.

    Parameters
    ----------
    device
        Its number among those that this process sees.

    Raises
    ------
    DriverError
        There is no driver, or no such GPU.
    """

    def __init__(self, device: int) -> None:
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise DriverError("no CUDA driver") from error
        self._device, self._context = c_int(), c_void_p()
        self._call("cuInit", c_uint(0))
        self._call("cuDeviceGet", byref(self._device), c_int(device))

    def shared(self) -> bool:
        """Whether several processes may use the GPU, as sites can forbid."""
        mode = c_int()
        self._call("cuDeviceGetAttribute", byref(mode), c_int(_COMPUTE_MODE), self._device)
        return mode.value == _FOR_EVERYBODY

    def begin(self) -> None:
        """Make the context that all parts of a process share, PyTorch too (0.4 s)."""
        self._call("cuDevicePrimaryCtxRetain", byref(self._context), self._device)

    def use(self) -> None:
        """Let the calling thread use the context."""
        self._call("cuCtxSetCurrent", self._context)

    def free_bytes(self) -> int:
        """Memory of the GPU that nobody has."""
        free, total = c_size_t(), c_size_t()
        self._call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value

    def allocate(self, size: int) -> int:
        """Take memory of the GPU; returns its address."""
        address = c_void_p()
        self._call("cuMemAlloc_v2", byref(address), c_size_t(size))
        return address.value or 0

    def allocate_pinned(self, size: int) -> ctypes.Array[ctypes.c_ubyte]:
        """Take memory of the machine that the GPU can copy from by itself."""
        address = c_void_p()
        self._call("cuMemHostAlloc", byref(address), c_size_t(size), c_uint(0))
        return (ctypes.c_ubyte * size).from_address(address.value or 0)

    def stream(self) -> c_void_p:
        """A queue of work of its own, which waits for no other."""
        stream = c_void_p()
        self._call("cuStreamCreate", byref(stream), c_uint(1))
        return stream

    def copy_to(self, target: int, source: ctypes.Array[ctypes.c_ubyte], size: int, stream: c_void_p) -> None:
        """Begin to copy pinned memory to the GPU."""
        self._call("cuMemcpyHtoDAsync_v2", c_void_p(target), source, c_size_t(size), stream)

    def wait(self, stream: c_void_p) -> None:
        """Wait for all that was begun in a queue."""
        self._call("cuStreamSynchronize", stream)

    def share(self, address: int) -> bytes:
        """A name for allocated memory, for another process."""
        name = SharedMemory()
        self._call("cuIpcGetMemHandle", byref(name), c_void_p(address))
        return bytes(name)

    def open(self, name: bytes) -> int:
        """The address, in this process, of what another one shares; it must not end before :meth:`close`."""
        address = c_void_p()
        shared = SharedMemory.from_buffer_copy(name)
        self._call("cuIpcOpenMemHandle_v2", byref(address), shared, c_uint(_ENABLE_PEERS))
        return address.value or 0

    def close(self, address: int) -> None:
        """Give back what was opened."""
        self._call("cuIpcCloseMemHandle", c_void_p(address))

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            said = c_char_p()
            self._library.cuGetErrorString(code, byref(said))
            raise DriverError(f"{name}: {(said.value or b'?').decode()} ({code})")
