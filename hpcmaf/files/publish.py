"""Files appear whole or not at all, and are checked when they are read.

A file is written under a temporary name beside its target, synced, renamed, and then described by a manifest that
carries its sha256. Where there is a manifest there is a finished file; a writer that is killed in between leaves
nothing that looks finished.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpcmaf.errors import DataError, StoreError

# Larger ones no clock and no counter shows, and sums of them stay numbers.
Amount = Annotated[float, Field(ge=0, lt=1e15)]
Count = Annotated[int, Field(ge=0)]


# What many a FUSE says, and CIFS before Linux 4.17, that has no fsync for folders.
NO_FSYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF})


class Record(BaseModel):
    """Base of what a JSON file of ours must hold; keys of later versions are accepted."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading; a pipe or device in its place is an error and not waited for."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def read_bytes(path: Path) -> bytes:
    """Content of a file."""
    with open_file(path) as file:
        return file.read()


def read_json(path: Path, model: type[BaseModel]) -> dict[str, Any]:
    """Read a JSON object that ``model`` describes.

    Returns
    -------
    dict
        The object as it is in the file; what the model names is there and of its type.

    Raises
    ------
    OSError
        The file is not there, or cannot be read.
    DataError
        It is, and holds something else: one line that names the first fault.
    """
    return parse_json(read_bytes(path), model, str(path))


def parse_json(data: bytes, model: type[BaseModel], where: str) -> dict[str, Any]:
    """The same of a line or a file that has been read; ``where`` names it."""
    try:
        value = json.loads(data, parse_int=_parse_int, parse_float=_parse_float, parse_constant=_parse_float)
        if not isinstance(value, dict):
            raise DataError(f"{where}: not a JSON object")
        model.model_validate(value)
    except ValidationError as error:
        raise DataError(f"{where}: damaged ({first_fault(error)})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: damaged ({error})") from error
    return value


def first_fault(error: ValidationError) -> str:
    """Where the first fault is and what it is, such as ``rows.0.calls: Input should be a valid number``."""
    first = error.errors(include_url=False)[0]
    return ": ".join([*([".".join(map(str, first["loc"]))] if first["loc"] else []), first["msg"]])


def _parse_int(text: str) -> int:
    # No figure of ours is larger, and none that is can be added to a float.
    if len(text) > 19:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _parse_float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no finite number")
    return value


class Manifest(Record):
    """What a published file must look like.

    Attributes
    ----------
    sha256, bytes
        Of the file.
    rows
        Records in it (problems of a store, lines of a dataset).
    layout
        Name and version of its layout, e.g. ``"hpcmaf-debate/1"``; the file calls it ``schema``.
    extra
        Anything its writer wants to hand on (ledger rows, counts).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    bytes: Count
    rows: Count
    layout: str = Field(alias="schema")
    extra: dict[str, Any] = {}


def manifest_path(path: Path) -> Path:
    """The path of a file's manifest."""
    return path.with_name(path.name + ".manifest.json")


def file_sha256(path: Path) -> str:
    """sha256 of a file, in constant memory."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Force a file's or folder's content to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FSYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Force all that a folder holds to disk."""
    for path in sorted(folder.rglob("*")):
        sync(path)


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``target`` when the block succeeds.

    Works for files and for folders. After an exception the temporary is removed and ``target`` is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Host names may repeat across containers; a random name cannot collide.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        if temporary.is_dir():
            sync_folder(temporary)
        sync(temporary)
        _replace(temporary, target)
        sync(target.parent)
    except OSError as error:
        # A full disk does not say which file it had no room for, and callers do not know the temporary.
        if error.errno is not None and error.filename in {None, str(temporary), temporary}:
            error.filename = str(target)
        raise
    finally:
        remove(temporary)


def remove(path: Path, tries: int = 3) -> None:
    """Delete a file or folder that nothing depends on; what cannot be deleted stays, with a line in the log.

    NFS keeps a deleted file that a process has open under another name, so its folder is not empty until they close it;
    what was done before must not fail for that.
    """
    for left in reversed(range(tries)):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            return
        except OSError as error:
            if not left:
                print(f"{path}: could not be deleted ({error.strerror}), and stays", file=sys.stderr, flush=True)
                return
            time.sleep(0.2)


def _replace(temporary: Path, target: Path) -> None:
    if not (temporary.is_dir() and target.is_dir()):
        os.replace(temporary, target)
        return
    # A folder cannot take a full one's place, and removing that one first
    # could leave half of it under its name: it is renamed away whole.
    retired = temporary.with_suffix(".old.tmp")
    os.replace(target, retired)
    try:
        os.replace(temporary, target)
    except OSError:
        os.replace(retired, target)
        raise
    remove(retired)


def write_text(target: Path, text: str) -> None:
    """Publish a small text file atomically (UTF-8)."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogatepass"))


def write_json(target: Path, value: Any) -> None:
    """Publish a JSON file atomically; same value, same bytes."""
    write_text(target, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True) + "\n")


def write_manifest(path: Path, *, rows: int, schema: str, extra: Mapping[str, Any] | None = None) -> Manifest:
    """Describe a published file; call after the file is in place."""
    about = {"sha256": file_sha256(path), "bytes": path.stat().st_size, "rows": rows, "schema": schema}
    manifest = Manifest.model_validate(about | {"extra": dict(extra or {})})
    write_json(manifest_path(path), manifest.model_dump(by_alias=True))
    return manifest


def read_manifest(path: Path) -> Manifest | None:
    """Read the manifest of ``path``; ``None`` where there is none.

    Raises
    ------
    StoreError
        The manifest is not one this program wrote.
    """
    where = manifest_path(path)
    try:
        return Manifest.model_validate(read_json(where, Manifest))
    except FileNotFoundError:
        return None
    except DataError as error:
        raise StoreError(f"{error}: not a manifest; delete it and rerun the stage") from error


def check_manifest(path: Path) -> Manifest:
    """Compare a file with its manifest, byte for byte.

    Raises
    ------
    StoreError
        File or manifest is missing, or they disagree.
    """
    manifest = read_manifest(path)
    if manifest is None:
        raise StoreError(f"{path}: has no manifest, so it was never finished; rerun its stage")
    if not path.exists():
        raise StoreError(f"{path}: missing although its manifest exists; delete {manifest_path(path).name} and rerun")
    size = path.stat().st_size
    if size != manifest.bytes:
        raise StoreError(f"{path}: {size} bytes where its manifest says {manifest.bytes}; delete both and rerun")
    if file_sha256(path) != manifest.sha256:
        raise StoreError(f"{path}: content differs from its manifest (sha256); delete both and rerun")
    return manifest
