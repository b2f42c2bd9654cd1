"""Finding a source's files and what split each belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcmaf.errors import DataError
from hpcmaf.tasks.columnar import read_arrow, read_parquet
from hpcmaf.tasks.rows import SPLIT_NAMES, Row, read_csv, read_json, read_jsonl

READERS = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
# One file per split as people write it, parquet as the hub keeps it, and
# arrow as save_to_disk and the hub's cache keep it.
_FORMS = (
    "{split}.jsonl",
    "{split}.json",
    "{split}.parquet",
    "{split}-*.parquet",
    "{split}/*.arrow",
    "*-{split}.arrow",
    "*-{split}-*.arrow",
)
# Folders that stand for a whole data set, not for a subject.
_NOT_SUBJECTS = {*SPLIT_NAMES, "main", "data", "default", "all"}
_SPLIT_IN_STEM = re.compile(rf"(?:^|[-_.])({'|'.join(SPLIT_NAMES)})(?![A-Za-z])")


def within(*folders: str) -> tuple[str, ...]:
    """The usual forms inside each of ``folders`` (``""`` or with a trailing slash)."""
    return tuple(folder + form for folder in folders for form in _FORMS)


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a source."""

    path: Path
    split: str
    group: str


def locate(source: Path, layouts: Sequence[str], split: str | None) -> list[Part]:
    """Find the files of a source.

    Parameters
    ----------
    source
        A file of a known suffix, or a folder in one of ``layouts``.
    layouts
        Glob patterns with ``{split}``, in order of preference: the first one
        that matches for any split is the source's layout.
    split
        What a file is called that does not say itself.

    Raises
    ------
    DataError
        There is no such path, or no layout fits.
    """
    if source.is_file():
        if source.suffix not in READERS:
            raise DataError(f"{source}: unknown kind of file; one of {', '.join(READERS)} is expected")
        return [Part(source, split or _split_in_name(source.stem), "")]
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; check the path")
    if not source.is_dir():
        raise DataError(f"{source}: neither a file nor a folder; name one of the two")
    for layout in layouts:
        parts = [
            Part(path, name, _group(path.relative_to(source)))
            for name in SPLIT_NAMES
            for path in sorted(source.glob(layout.format(split=name)))
            if not path.is_dir()
        ]
        if parts:
            return parts
    only = [path for path in sorted(source.iterdir()) if path.suffix in READERS and not path.name.startswith(".")]
    if len(only) == 1:
        return locate(only[0], layouts, split)
    shown = ", ".join(layout.format(split="train") for layout in layouts[:4])
    raise DataError(f"{source}: unknown layout; expected one of {shown}, ... in it, or pass one file")


def read_parts(parts: Sequence[Part]) -> Iterator[Row]:
    """Read files one after the other, numbering rows within split and group."""
    counts: dict[tuple[str, str, str], int] = {}
    for part in parts:
        empty = True
        # CSV files are one subject each, so numbering starts anew.
        scope = part.path.stem if part.path.suffix == ".csv" else ""
        try:
            for where, named, values in READERS[part.path.suffix](part.path):
                empty = False
                key = (named or part.split, part.group, scope)
                index = counts[key] = counts.get(key, -1) + 1
                yield Row(where, values, key[0], part.path.stem, part.group, index)
        except OSError as error:
            raise DataError(f"{part.path}: cannot be read ({error.strerror}); check its permissions") from error
        if empty:
            raise DataError(f"{part.path}: holds no problems; fetch or write it again")


def _split_in_name(stem: str) -> str:
    match = _SPLIT_IN_STEM.search(stem)
    return match.group(1) if match else "all"


def _group(relative: Path) -> str:
    return next((part for part in reversed(relative.parts[:-1]) if part not in _NOT_SUBJECTS), "")
