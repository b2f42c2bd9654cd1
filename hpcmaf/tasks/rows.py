"""Rows of text files - JSON lines, JSON, CSV - each knowing where it stands."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcmaf.errors import DataError

SPLIT_NAMES = ("train", "validation", "val", "dev", "test")


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a source.

    Attributes
    ----------
    where
        File and line, for messages.
    values
        Its columns. CSV columns are named ``"0"``, ``"1"``, ...
    split
        A name of ``SPLIT_NAMES``, or ``"all"`` where the source names none.
    file
        Stem of the file it came from; empty for hub data.
    group
        Subject folder or hub configuration; empty where there is none.
    index
        0-based within split and group.
    """

    where: str
    values: Mapping[str, Any]
    split: str
    file: str = ""
    group: str = ""
    index: int = 0

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
        key = self.first_of(*keys)
        if key is None:
            found = ", ".join(self.values) or "none"
            raise DataError(
                f"{self.where}: no key '{keys[0]}' (keys found: {found}); add it or check --source and TASK"
            )
        value = self.values[key]
        # bool is an int, and never an answer anyone meant.
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DataError(f"{self.where}: '{key}' is a {type(value).__name__}, not text; write it as a string")
        if isinstance(value, float) and not math.isfinite(value):
            raise DataError(
                f"{self.where}: '{key}' is {value}, which is no number; write what it stands for as a string"
            )
        if not (text := str(value).strip()):
            raise DataError(f"{self.where}: '{key}' is empty; fill it in or remove the record")
        return text


def _missing(value: Any) -> bool:
    """Whether a cell is empty; NaN is how tables say so, and as text it is what they said it with."""
    return value is None or value != value or value in ("nan", "NaN")


def read_jsonl(path: Path) -> Iterator[tuple[str, str | None, Mapping[str, Any]]]:
    """Read one object per line; blank lines are skipped."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            text = _decode(line, where).lstrip("\ufeff")
            if text.strip():
                yield where, None, _object(_parse(text, where), where)


def read_json(path: Path) -> Iterator[tuple[str, str | None, Mapping[str, Any]]]:
    """Read a JSON file: an array of objects, one object, or arrays by split name."""
    value = _parse(_decode(path.read_bytes(), str(path)).lstrip("\ufeff"), str(path))
    if isinstance(value, list):
        parts: dict[str | None, list[Any]] = {None: value}
    elif isinstance(value, dict) and any(isinstance(value.get(name), list) for name in SPLIT_NAMES):
        parts = {name: value[name] for name in SPLIT_NAMES if isinstance(value.get(name), list)}
    else:
        yield str(path), None, _object(value, str(path))
        return
    for split, items in parts.items():
        for number, item in enumerate(items, start=1):
            where = f"{path}, {f'{split}, ' if split else ''}item {number}"
            yield where, split, _object(item, where)


def read_csv(path: Path) -> Iterator[tuple[str, str | None, Mapping[str, Any]]]:
    """Read a CSV file without header; cells may span lines."""
    text = _decode(path.read_bytes(), str(path)).lstrip("\ufeff")
    # Python's own limit of 128 KiB is against endless quotes; the file is in memory already.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                yield f"{path}, line {reader.line_num}", None, {str(n): cell for n, cell in enumerate(cells)}
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: torn CSV ({error}); fetch the file again") from error


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        place = where if ", line " in where else f"{where}, line {line}"
        raise DataError(f"{place}: not UTF-8 (byte {error.start}); convert the file to UTF-8") from error


def _parse(text: str, where: str) -> Any:
    try:
        # Decimals stay as they were written: 0.10 is text here, not a float.
        return json.loads(text, parse_float=str)
    except json.JSONDecodeError as error:
        place = f", line {error.lineno}" if ", line " not in where else ""
        raise DataError(f"{where}{place}: torn or not JSON ({error.msg}); repair or remove it") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: JSON beyond what can be read ({error}); repair or remove it") from error


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: a JSON {type(value).__name__} where an object is expected; one object per problem")
    return value
