"""h5py's exceptions, as one line for the user: which are damage, and which the machine's."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpcmaf.errors import TRANSIENT, HpcmafError, PlatformError, StoreError, errno_of, system_error

REMEDY = "delete it and its manifest, and rerun the stage that wrote it"

# What h5py raises for files with flipped bits, cut ends or impossible text.
_SYMPTOMS = (OSError, KeyError, RuntimeError, ValueError)
# An address that no file can have comes from a damaged one.
_OF_DAMAGE = {None, errno.EINVAL, errno.EOVERFLOW}


@contextmanager
def reading(path: Path, dataset: str) -> Iterator[None]:
    """Turn what h5py raises inside into one line that names the file.

    To be put around little more than calls of h5py.

    Raises
    ------
    StoreError
        The file is damaged.
    PlatformError
        It may be whole, but could not be read: the operating system said no.
    """
    try:
        yield
    except HpcmafError:
        raise
    except _SYMPTOMS as error:
        # Where HDF5 reads metadata, h5py raises a KeyError with the system's number in its text.
        number = errno_of(error) or errno_of(OSError(str(error)))
        if number not in _OF_DAMAGE:
            raise _unreadable(path, number) from error
        raise StoreError(f"{path}: {dataset}: {reason(error)}; {REMEDY}") from error


def _unreadable(path: Path, number: int) -> PlatformError:
    said = system_error(OSError(number, os.strerror(number), str(path)))
    return PlatformError(str(said), kind="hardware" if number in TRANSIENT else None, errno=number)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write (disk full, quota, file-size limit) into a :class:`PlatformError`."""
    try:
        yield
    except HpcmafError:
        raise
    except (OSError, RuntimeError) as error:
        number = errno_of(error)
        raise PlatformError(
            f"{path}: cannot be written ({reason(error)}); free space there or write elsewhere",
            kind="hardware" if number in TRANSIENT else None,
            errno=number,
        ) from error


def reason(error: BaseException) -> str:
    """An exception's text on one line; HDF5 breaks its own into several."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300]
