"""h5py's many exceptions about damaged files, as one line for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpcmaf.errors import HpcmafError, PlatformError, StoreError

REMEDY = "delete it and its manifest, and rerun the stage that wrote it"

# What h5py and numpy raise when a file says something impossible, by what was
# seen on files with flipped bits and cut ends.
_SYMPTOMS = (
    OSError,
    KeyError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    MemoryError,
)


@contextmanager
def reading(path: Path, dataset: str) -> Iterator[None]:
    """Turn what h5py raises inside into a :class:`StoreError` naming file and dataset."""
    try:
        yield
    except HpcmafError:
        raise
    except _SYMPTOMS as error:
        raise StoreError(f"{path}: {dataset}: {reason(error)}; {REMEDY}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write (disk full, quota, file-size limit) into a :class:`PlatformError`."""
    try:
        yield
    except HpcmafError:
        raise
    except (OSError, RuntimeError) as error:
        raise PlatformError(
            f"{path}: cannot be written ({reason(error)}); free space there or write elsewhere"
        ) from error


def reason(error: BaseException) -> str:
    """An exception's text on one line; HDF5 breaks its own into several."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300]
