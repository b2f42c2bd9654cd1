"""Rows of data files, each knowing where it stands; of parquet, and so of the hub, only with an extra."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from hpcmaf.errors import DataError, PlatformError, errno_of
from hpcmaf.files.hub import SECONDS, ask_hub, reason

_CONVERTED = "refs/convert/parquet"  # the branch on which the hub keeps them
SPLIT_NAMES = ("train", "validation", "val", "dev", "test")
# Where a record stands, the split that the file says it is of, and its columns.
Record = tuple[str, str | None, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a source."""

    where: str  # file and line, for messages
    values: Mapping[str, Any]  # by column; a CSV file without header has "0", "1", ...
    split: str  # of SPLIT_NAMES, or "all" where the source names none
    file: str = ""  # stem of its name
    group: str = ""  # a subject's folder
    index: int = 0  # within split and group

    def first_of(self, *keys: str) -> str | None:
        """The first of ``keys`` under which this row says something, else the first that it has."""
        there = [key for key in keys if not _missing(self.values.get(key))]
        return next((key for key in there if str(self.values[key]).strip()), there[0] if there else None)

    def text(self, *keys: str) -> str:
        """Stripped text under the first of ``keys`` that is there.

        Raises
        ------
        DataError
            None of the keys is there, or what is there is not text or empty.
        """
        if (key := self.first_of(*keys)) is None:
            found = ", ".join(self.values) or "none"
            raise DataError(
                f"{self.where}: no key '{keys[0]}' (keys found: {found}); add it or check --source and TASK"
            )
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DataError(f"{self.where}: '{key}' is a {type(value).__name__}, not text; write it as a string")
        if isinstance(value, float) and not math.isfinite(value):
            raise DataError(
                f"{self.where}: '{key}' is {value}, which is no number; write what it stands for as a string"
            )
        if not (text := str(value).strip()):
            raise DataError(f"{self.where}: '{key}' is empty; fill it in or remove the record")
        return text

    def id(self, task: str, *keys: str) -> str:
        """A problem's own id, under the first of ``keys`` that is there, behind its task's name; else by position."""
        return f"{task}-{self.text(*keys)}" if self.first_of(*keys) else self.position_id(task)

    def position_id(self, task: str, number: str = "") -> str:
        """An id for a problem that brings none: task, split, subject and position."""
        return "-".join(part for part in (task, self.split, self.group, number or f"{self.index:05d}") if part)


def _missing(value: Any) -> bool:
    """Whether a cell is empty; NaN is how tables say so, and as text it is what they said it with."""
    spelt = value.strip() if isinstance(value, str) else ""
    return value is None or value != value or spelt in ("nan", "NaN", "NAN", "-nan", "<NA>", "NaT")


def read_jsonl(path: Path) -> Iterator[Record]:
    """Read one object per line; blank lines are skipped."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}, line {number}"
                if line.strip():
                    yield where, None, _object(_parse(line, where), where)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: torn or not gzip ({error}); fetch it again") from error


def read_json(path: Path) -> Iterator[Record]:
    """Read a JSON file: an array of objects, one object, or arrays by split name."""
    value = _parse(path.read_bytes(), str(path))
    parts: dict[str | None, list[Any]] = {None: value} if isinstance(value, list) else {}
    if isinstance(value, dict):
        parts = {name: value[name] for name in SPLIT_NAMES if isinstance(value.get(name), list)}
    if not isinstance(value, list) and not parts:
        yield str(path), None, _object(value, str(path))
    for split, items in parts.items():
        for number, item in enumerate(items, start=1):
            where = f"{path}, {f'{split}, ' if split else ''}item {number}"
            yield where, split, _object(item, where)


def read_csv(path: Path) -> Iterator[Record]:
    """Read a CSV file; cells may span lines. Its first line is its header where that has a column ``question``."""
    text = _decode(path.read_bytes(), str(path))
    # Python's own limit of 128 KiB is against endless quotes; the file is in memory already.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(f"{path}, line {reader.line_num}", cells) for cells in reader if cells]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: torn CSV ({error}); fetch the file again") from error
    header = rows.pop(0)[1] if rows and "question" in map(str.casefold, rows[0][1]) else None
    for where, cells in rows:
        names = header or [str(n) for n in range(len(cells))]
        if len(cells) != len(names):
            raise DataError(f"{where}: {len(cells)} cells under a header of {len(names)}; repair or remove the line")
        yield where, None, dict(zip(names, cells, strict=True))


def read_parquet(path: Path) -> Iterator[Record]:
    """Read a parquet file."""
    try:
        pa, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise PlatformError(f"{path}: reading it needs pyarrow; install it with pip install 'hpcmaf[hub]'") from error
    try:
        table = parquet.read_table(path, partitioning=None)
        for number, values in enumerate(table.to_pylist(), start=1):
            yield f"{path}, row {number}", None, values
    except (pa.ArrowException, OSError) as error:
        if errno_of(error) is not None:
            raise  # of the file system, not of the file
        raise DataError(f"{path}: torn or not what its name says ({reason(error)}); fetch it again") from error


READERS: Mapping[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def kind(path: Path) -> str:
    """The suffix by which a file is read."""
    return ".jsonl.gz" if path.name.endswith(".jsonl.gz") else path.suffix


def from_hub(name: str, configs: Sequence[str]) -> Path:
    """A folder of a data set of the hub, in the hub's parquet files; where there are ``configs``, of these alone.

    Raises
    ------
    DataError
        The hub does not deliver.
    """
    wanted = [f"{config}/*" for config in (*configs, "default")] if configs else None
    try:
        ask_hub(lambda hub: hub.dataset_info(name, revision=_CONVERTED, timeout=SECONDS))
        download = partial(import_module("huggingface_hub").snapshot_download, repo_type="dataset", revision=_CONVERTED)
        folder = Path(download(name, allow_patterns=wanted))
        return folder if any(folder.rglob("*.parquet")) else Path(download(name))
    # The client raises its own, requests', httpx' and builtin exceptions alike.
    except Exception as error:
        raise DataError(
            f"{name}: neither a path here nor to be had from the hub ({reason(error)}); "
            "check the name and the network, or download it elsewhere and pass the folder"
        ) from error


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode().lstrip("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 (byte {error.start}); convert the file to UTF-8") from error


def _parse(data: bytes, where: str) -> Any:
    text = _decode(data, where)
    try:
        return json.loads(text, parse_float=str)  # 0.10 stays as it was written
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: torn or not JSON ({error}); repair or remove it") from error


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: a JSON {type(value).__name__} where an object is expected; one object per problem")
    return value
