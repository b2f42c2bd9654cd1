"""Find what is wrong with a store, a folder of shards or a whole run, and name it.

A finding names file, fault and remedy, and looking goes on after one: a
person who repairs a run wants the whole list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcmaf.errors import PlatformError, StoreError, system_error
from hpcmaf.files.publish import check_manifest, manifest_path, read_manifest
from hpcmaf.store.damage import REMEDY
from hpcmaf.store.reader import Store
from hpcmaf.store.schema import FINISH_REASONS, INTEGER_COLUMNS, KINDS, MANIFEST_SCHEMA, TEXT_COLUMNS

MANIFEST_SUFFIX = ".manifest.json"
_SHARD = re.compile(r"shard-(\d+)\.h5")
# Rows read at a time: integers, and texts.
_INTEGER_BLOCK = 1 << 16
_TEXT_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: in which file, what it is, and what to do."""

    path: Path
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; {self.remedy}"


def verify(path: Path) -> list[Finding]:
    """Check a store, or everything published beneath a folder.

    A store is compared with its manifest, and every column is read: checksums,
    offsets, row counts, and that each utterance belongs to its problem. A
    folder (of shards, or a run) is searched for stores and manifests, for gaps
    in the numbering of shards, merged stores that hold other counts than their
    shards, and temporaries that a killed writer left behind.

    Returns
    -------
    list of Finding
        Empty where all is well.

    Raises
    ------
    StoreError
        There is nothing to check at ``path``.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if path.name.endswith(MANIFEST_SUFFIX):
        path = path.with_name(path.name.removesuffix(MANIFEST_SUFFIX))
    if not path.exists() and not manifest_path(path).exists():
        raise StoreError(f"{path}: no such file or folder; check the path")
    return _file(path)


def published(folder: Path) -> list[Path]:
    """Files beneath a folder that are stores or have a manifest, in order."""
    described = {p.with_name(p.name.removesuffix(MANIFEST_SUFFIX)) for p in folder.rglob(f"*{MANIFEST_SUFFIX}")}
    return sorted(described | {p for p in folder.rglob("*.h5") if p.is_file()})


def _folder(folder: Path) -> list[Finding]:
    files = published(folder)
    temporaries = sorted(folder.rglob(".*.tmp"))
    if not files and not temporaries:
        raise StoreError(f"{folder}: holds neither stores nor manifests; give a store, a folder of shards or a run")
    findings = [finding for file in files for finding in _file(file)]
    for parent in sorted({file.parent for file in files}):
        findings += _gaps(parent, [file.name for file in files if file.parent == parent])
    findings += [finding for file in files for finding in _merged(file, files)]
    for temporary in temporaries:
        what = "temporary of a writer that was killed, or is still at work"
        findings.append(Finding(temporary, what, "delete it once no job writes there"))
    return findings


def _gaps(folder: Path, names: list[str]) -> list[Finding]:
    numbers = {int(match[1]): match[0] for name in names if (match := _SHARD.fullmatch(name))}
    if not numbers:
        return []
    width = len(next(iter(numbers.values()))) - len("shard-.h5")
    missing = [folder / f"shard-{number:0{width}d}.h5" for number in range(max(numbers)) if number not in numbers]
    return [Finding(path, "missing shard: later ones exist", "rerun the task that writes it") for path in missing]


def _merged(store: Path, files: list[Path]) -> list[Finding]:
    """A store ``x.h5`` beside a folder ``x`` of shards is their merge."""
    shards = [file for file in files if file.parent == store.with_suffix("") and _SHARD.fullmatch(file.name)]
    try:
        whole, parts = read_manifest(store), [read_manifest(shard) for shard in shards]
    except StoreError:
        return []  # reported with the file itself
    if not shards or whole is None or None in parts:
        return []
    rows = sum(part.rows for part in parts if part is not None)
    if rows == whole.rows:
        return []
    what = f"{whole.rows} problems where its {len(shards)} shards in {store.with_suffix('')} hold {rows}"
    return [Finding(store, what, "restore the missing shard, or delete the store and its manifest and merge again")]


def _file(path: Path) -> list[Finding]:
    """Faults of one published file."""
    findings: list[Finding] = []
    manifest = None
    try:
        manifest = check_manifest(path)
    except StoreError as error:
        findings.append(_finding(path, error))
    except OSError as error:
        findings.append(_finding(path, system_error(error)))
    if path.suffix != ".h5" or not path.exists():
        return findings
    if manifest is not None and manifest.schema != MANIFEST_SCHEMA:
        what = f"manifest says schema {manifest.schema!r}, not {MANIFEST_SCHEMA!r}"
        findings.append(Finding(path, what, "read it with the version of hpcmaf that wrote it"))
        return findings
    try:
        with Store(path) as store:
            if manifest is not None and manifest.rows != len(store):
                what = f"{len(store)} problems where its manifest says {manifest.rows}"
                findings.append(Finding(path, what, REMEDY))
            findings += _content(store)
    except (StoreError, PlatformError) as error:
        findings.append(_finding(path, error))
    return findings


def _content(store: Store) -> list[Finding]:
    """Read every column, then every debate."""
    tables = {"problems": len(store), "utterances": store.utterance_rows()}
    checks: list[Callable[[], None]] = []
    for table, rows in tables.items():
        for name, each in TEXT_COLUMNS[table].items():
            checks.append(lambda name=f"{table}/{name}", rows=rows * each: _check_text(store, name, rows))
        for name in INTEGER_COLUMNS[table]:
            checks.append(lambda name=f"{table}/{name}", rows=rows: _check_integers(store, name, rows))
    findings = list(_failures(store, checks))
    # Debates are assembled from columns; with a broken one they only repeat
    # its fault.
    return findings or list(_failures(store, [lambda: _check_debates(store)]))


def _failures(store: Store, checks: list[Callable[[], None]]) -> Iterator[Finding]:
    for check in checks:
        try:
            check()
        except (StoreError, PlatformError) as error:
            yield _finding(store.path, error)


def _check_text(store: Store, name: str, rows: int) -> None:
    _check_shape(store, f"{name}/offsets", rows + 1)
    _check_shape(store, f"{name}/data", None)
    size = len(store.dataset(f"{name}/data"))
    first, last = store.integers(f"{name}/offsets", 0, 1)[0], store.integers(f"{name}/offsets", rows, rows + 1)[0]
    for low in range(0, rows, _TEXT_BLOCK):
        store.texts(name, low, min(low + _TEXT_BLOCK, rows))
    if (first, last) != (0, size):
        _fail(store, f"{name}/offsets", f"run from {first} to {last} where its data has bytes 0 to {size}")


def _check_integers(store: Store, name: str, rows: int) -> None:
    rows += name.endswith("offsets")
    _check_shape(store, name, rows)
    bounds = {
        "problems/has_gold": (0, 1),
        "problems/utterance_offsets": (0, store.utterance_rows()),
        "utterances/problem": (0, len(store) - 1),
        "utterances/kind": (0, len(KINDS) - 1),
        "utterances/round": (1, store.info.rounds),
        "utterances/agent": (0, store.info.agents - 1),
        "utterances/parsed": (0, 1),
        "utterances/finish_reason": (0, len(FINISH_REASONS) - 1),
    }
    low_value, high_value = bounds.get(name, (0, np.iinfo(np.int64).max))
    for low in range(0, rows, _INTEGER_BLOCK):
        values = store.integers(name, low, min(low + _INTEGER_BLOCK, rows))
        wrong = np.flatnonzero((values < low_value) | (values > high_value))
        if len(wrong):
            value, row = int(values[wrong[0]]), low + int(wrong[0])
            _fail(store, name, f"{value} in row {row} where only {low_value}..{high_value} exist")


def _check_shape(store: Store, name: str, rows: int | None) -> None:
    dataset = store.dataset(name)
    if not dataset.fletcher32:
        _fail(store, name, "carries no checksum, so damage to it would not show")
    if rows is not None and len(dataset) != rows:
        _fail(store, name, f"{len(dataset)} rows where its table needs {rows}")


def _check_debates(store: Store) -> None:
    seen: set[str] = set()
    for transcript in store.transcripts(gold=True):
        if transcript.problem.id in seen:
            _fail(store, "problems/id", f"problem {transcript.problem.id!r} comes twice")
        seen.add(transcript.problem.id)


def _fail(store: Store, dataset: str, what: str) -> None:
    raise StoreError(f"{store.path}: {dataset}: {what}; {REMEDY}")


def _finding(path: Path, error: StoreError | PlatformError) -> Finding:
    """An error's line, taken apart: ``file: what; remedy``."""
    what, _, remedy = str(error).removeprefix(f"{path}: ").rpartition("; ")
    return Finding(path, what, remedy) if what else Finding(path, remedy, REMEDY)
