"""Finding a source's files and what split each belongs to."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcmaf.errors import DataError
from hpcmaf.files.publish import manifest_path
from hpcmaf.tasks.columnar import read_arrow, read_parquet
from hpcmaf.tasks.rows import SPLIT_NAMES, Row, read_csv, read_json, read_jsonl

READERS = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
# One file per split as people write it, parquet as the hub keeps and converts it, and
# arrow as save_to_disk and the hub's cache keep it.
_FORMS = (
    "{split}.jsonl",
    "{split}.json",
    "{split}.csv",
    "{split}.parquet",
    "{split}.arrow",
    "{split}-*.parquet",
    "{split}/*.parquet",
    "{split}/*.arrow",
    "*-{split}.arrow",
    "*-{split}-*.arrow",
)
# Folders that stand for a whole data set, not for a subject.
_NOT_SUBJECTS = {*SPLIT_NAMES, "main", "data", "default", "all"}
_NUMBERED = re.compile(r"(.*)-(\d{5})-of-(\d{5})")
# Suffixes of data that are of no use as they are.
_DATA = {*READERS, ".gz", ".xz", ".bz2", ".zst", ".zip", ".tsv", ".ndjson", ".txt"}
# MMLU's auxiliary_train is no training split of its own questions.
_SAYS_SPLIT = re.compile(rf"(?<!auxiliary)(?:^|[-_.])({'|'.join(SPLIT_NAMES)})(?![a-z])")
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
        Glob patterns with ``{split}``, in order of preference: a split is
        read in the first one that has it.
    split
        What a file is called that does not say itself.

    Raises
    ------
    DataError
        There is no such path, no layout fits, or something that looks like
        data would be left out: a split in two forms or none, a missing part.
    """
    if source.is_file():
        if source.suffix not in READERS:
            raise DataError(f"{source}: unknown kind of file; one of {', '.join(READERS)} is expected")
        return [Part(source, split or _split_in_name(source.stem), "")]
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; check the path")
    if not source.is_dir():
        raise DataError(f"{source}: neither a file nor a folder; name one of the two")
    found = recognised(source, layouts)
    if not found:
        return _only_file(source, layouts, split)
    parts = _choose(source, found)
    for part in parts:
        if not part.path.is_file():
            raise DataError(f"{part.path}: no file that could be read; put it right, or take it away")
    _check_numbered(parts)
    _refuse_lost_splits({part.path.parent for part in parts}, {part.split for part in parts})
    return parts


def recognised(source: Path, layouts: Sequence[str]) -> dict[str, list[Part]]:
    """Layout to the files of a folder that are in it, for those that have any."""
    found = {
        layout: [
            Part(path, name, _group(path.relative_to(source)))
            for name in SPLIT_NAMES
            for path in sorted(source.glob(layout.format(split=name)))
            if not path.is_dir()
        ]
        for layout in layouts
    }
    return {layout: parts for layout, parts in found.items() if parts}


def left_out(parts: Sequence[Part]) -> list[Path]:
    """Files beside those of a source that could be data, too, by their suffix; ``.json`` is mostly about data."""
    beside = {path for folder in {part.path.parent for part in parts} for path in folder.iterdir()}
    named = {path for path in beside if path.suffix in READERS.keys() - {".json"}}
    return sorted(named - {part.path for part in parts})


def _choose(source: Path, found: Mapping[str, list[Part]]) -> list[Part]:
    """Each split in the first layout that has it; whatever else is there must not be lost in silence."""
    chosen: dict[str, tuple[str, list[Part]]] = {}
    for layout, parts in found.items():
        for name in {part.split for part in parts} - chosen.keys():
            chosen[name] = _home(layout), [part for part in parts if part.split == name]
    parts = [part for name in SPLIT_NAMES if name in chosen for part in chosen[name][1]]
    homes = {home: held[0] for home, held in chosen.values()}
    if len(homes) > 1:
        shown = " and ".join(f"'{part.split}' as {part.path.relative_to(source)}" for part in homes.values())
        raise DataError(f"{source}: holds the split {shown}; name the folder that is meant, or put them side by side")
    taken = {part.path: part for part in parts}
    if len(taken) < len(parts):
        twice = next(part.path for part in parts if taken[part.path] is not part)
        raise DataError(f"{twice}: its name says two splits; rename it")
    rest = [
        (layout, part)
        for layout, others in found.items()
        for part in others
        if part.path not in taken and not manifest_path(part.path).exists()
    ]
    # Folders of these names hold what the folders of subjects beside them hold.
    if homes.keys() <= {"all", "default"}:
        rest = [(layout, part) for layout, part in rest if _home(layout) != "*"]
    for _, part in rest:
        mine = chosen[part.split][1][0].path.relative_to(source)
        raise DataError(
            f"{source}: {mine} and {part.path.relative_to(source)} both hold the split '{part.split}'; "
            "take one of them away, or name the file or folder that is meant"
        )
    return parts


def _home(layout: str) -> str:
    """The folder in which a layout has its splits; ``*`` where each subject has its own."""
    return layout[: layout.index("{split}")].rpartition("/")[0]


def _only_file(source: Path, layouts: Sequence[str], split: str | None) -> list[Part]:
    held = [path for path in sorted(source.iterdir()) if path.suffix in READERS and not path.name.startswith(".")]
    if len(held) == 1:
        parts = locate(held[0], layouts, split)
        _refuse_lost_splits({source}, {part.split for part in parts})
        return parts
    shown = ", ".join(layout.format(split="train") for layout in layouts[:4])
    names = f" (it holds {', '.join(path.name for path in held[:4])})" if held else ""
    raise DataError(f"{source}: unknown layout{names}; expected one of {shown}, ... in it, or pass one file")


def _check_numbered(parts: Sequence[Part]) -> None:
    """All of ``train-00000-of-00002`` to ``train-00001-of-00002``."""
    series: dict[tuple[Path, str], dict[int, int]] = {}
    for part in parts:
        if match := _NUMBERED.fullmatch(part.path.stem):
            series.setdefault((part.path.parent, match[1]), {})[int(match[2])] = int(match[3])
    for (folder, name), numbers in series.items():
        totals = set(numbers.values())
        missing = sorted(set(range(max(totals))) - numbers.keys())
        if len(totals) > 1 or missing or len(numbers) > max(totals):
            lacks = f"{name}-{missing[0]:05d}-of-{max(totals):05d}" if missing else f"one series of {name}"
            raise DataError(f"{folder}: {lacks} is missing beside the others; fetch it, or take the others away")


def _refuse_lost_splits(folders: Iterable[Path], present: Collection[str]) -> None:
    """Refuse what says by its name that it is a split which nothing else here is."""
    for path in (path for folder in sorted(folders) for path in sorted(folder.iterdir())):
        match = _SAYS_SPLIT.search(path.name.casefold())
        if match is None or match[1] in present or path.name.startswith("."):
            continue
        inside = path.rglob("*") if path.is_dir() else [path]
        if any(file.suffix.casefold() in _DATA for file in inside):
            raise DataError(
                f"{path}: seems to be the split '{match[1]}', but is in no known form; "
                f"bring it into the form of the other files there, or take it away"
            )


def read_parts(parts: Sequence[Part]) -> Iterator[Row]:
    """Read files one after the other, numbering rows within split and group."""
    counts: dict[tuple[str, str, str], int] = {}
    for part in parts:
        empty = True
        # CSV files are one subject each, so numbering starts anew.
        scope = part.path.stem if part.path.suffix == ".csv" else ""
        for where, named, values in READERS[part.path.suffix](part.path):
            empty = False
            key = (named or part.split, part.group, scope)
            index = counts[key] = counts.get(key, -1) + 1
            yield Row(where, values, key[0], part.path.stem, part.group, index)
        if empty:
            raise DataError(f"{part.path}: holds no problems; fetch or write it again")


def _split_in_name(stem: str) -> str:
    match = _SPLIT_IN_STEM.search(stem)
    return match.group(1) if match else "all"


def _group(relative: Path) -> str:
    return next((part for part in reversed(relative.parts[:-1]) if part not in _NOT_SUBJECTS), "")
