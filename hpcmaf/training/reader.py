"""A process that reads files into a GPU's memory, for another one that is importing meanwhile.

Threads of that one would hold imports up by half a second or more; see
results/bench. This needs neither PyTorch nor anything else of size::

    python -m hpcmaf.training.reader DEVICE FILE...

It prints a line of JSON: ``{"shared": [[file, size, name], ...]}`` with each
file's memory, or ``{"error": ...}``; and ends with its standard input.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hpcmaf.cores import usable_cores
from hpcmaf.training.driver import Driver, DriverError

# Bytes of a read, and at most so many threads, each with pinned memory for two: the GPU copies one of them while the
# other is filled.
_CHUNK = 16 << 20
_THREADS = 6


def threads() -> int:
    """Half of this process's share of the cores, for those that import meanwhile."""
    cores = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(_THREADS, cores // 2))


def share(driver: Driver, files: list[Path]) -> list[tuple[str, int, str]]:
    """Read files into the GPU's memory; each file's name, size and memory, in hexadecimal.

    Raises
    ------
    OSError
        A file cannot be read, or ends before its size.
    DriverError
        The GPU is not for several processes, has not room for the files twice, or fails.
    """
    if not driver.shared():
        raise DriverError("the GPU is for one process alone")
    driver.begin()
    driver.use()
    sizes = [file.stat().st_size for file in files]
    if 2 * sum(sizes) > driver.free_bytes():
        raise DriverError("no room")
    places = [driver.allocate(size) for size in sizes]
    waiting = deque(
        (file, begin, min(_CHUNK, size - begin), place + begin)
        for file, size, place in zip(files, sizes, places, strict=True)
        for begin in range(0, size, _CHUNK)
    )

    def work() -> None:
        driver.use()
        rooms = [(driver.allocate_pinned(_CHUNK), driver.stream()) for _ in range(2)]
        while waiting:
            try:
                file, begin, size, target = waiting.popleft()
            except IndexError:  # another one was quicker
                break
            room, stream = rooms[0]
            driver.wait(stream)
            fill(memoryview(room)[:size], file, begin)
            driver.copy_to(target, room, size, stream)
            rooms.reverse()
        for _, stream in rooms:
            driver.wait(stream)

    count = threads()
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work) for _ in range(count)]:
            done.result()
    return [
        (str(file), size, driver.share(place).hex()) for file, size, place in zip(files, sizes, places, strict=True)
    ]


def fill(room: memoryview, file: Path, begin: int) -> None:
    """Read as much of a file as there is room for; raises ``OSError`` if it ends before."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        done = 0
        while done < len(room):
            got = os.preadv(descriptor, [room[done:]], begin + done)
            if got == 0:
                raise OSError(f"{file}: ends too early")
            done += got
    finally:
        os.close(descriptor)


def main(arguments: list[str]) -> int:
    """See the module."""
    try:
        said: dict[str, object] = {"shared": share(Driver(int(arguments[0])), [Path(name) for name in arguments[1:]])}
    except (OSError, DriverError) as error:
        said = {"error": " ".join(str(error).split())}
    print(json.dumps(said), flush=True)
    # Whoever wants the memory takes a copy, and lets go.
    sys.stdin.read()
    return 0 if "shared" in said else 1


if __name__ == "__main__":
    ended = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(ended)
