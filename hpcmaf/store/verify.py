"""Find what is wrong with a store, a folder of shards or a whole run, and name it.

A finding names file, fault and remedy. The search continues after one: a person
who repairs a run wants the list of all files to replace.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from hpcmaf.errors import PlatformError, StoreError, system_error
from hpcmaf.files.publish import check_manifest, manifest_path, read_manifest
from hpcmaf.store.reader import REMEDY, Store
from hpcmaf.store.schema import MANIFEST_SCHEMA

MANIFEST_SUFFIX = ".manifest.json"
_SHARD = re.compile(r"shard-(\d+)\.h5")


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
    path = _described(path)
    if not path.exists() and not manifest_path(path).exists():
        raise StoreError(f"{path}: no such file or folder; check the path")
    return _file(path)


def _described(path: Path) -> Path:
    """The file that a manifest is of."""
    return path.with_name(path.name.removesuffix(MANIFEST_SUFFIX) or path.name)


def _folder(folder: Path) -> list[Finding]:
    described = {_described(path) for path in folder.rglob(f"*{MANIFEST_SUFFIX}")}
    files = sorted(described | {p for p in folder.rglob("*.h5") if p.is_file()})
    temporaries = sorted(folder.rglob(".*.tmp"))
    if not files and not temporaries:
        raise StoreError(f"{folder}: holds neither stores nor manifests; give a store, a folder of shards or a run")
    findings = [finding for file in files for finding in _file(file)]
    for parent in sorted({file.parent for file in files}):
        findings += _gaps(parent, [file.name for file in files if file.parent == parent])
    findings += [finding for file in files for finding in _merged(file, files)]
    what, remedy = "temporary of a writer that was killed, or is still at work", "delete it once no job writes there"
    return findings + [Finding(temporary, what, remedy) for temporary in temporaries]


def _gaps(folder: Path, names: list[str]) -> list[Finding]:
    numbers = {int(match[1]): len(match[1]) for name in names if (match := _SHARD.fullmatch(name))}
    missing = islice((number for number in range(max(numbers, default=0)) if number not in numbers), 100)
    width = max(numbers.values(), default=0)
    return [
        Finding(
            folder / f"shard-{number:0{width}d}.h5", "missing shard: later ones exist", "rerun the task that writes it"
        )
        for number in missing
    ]


def _merged(store: Path, files: list[Path]) -> list[Finding]:
    """A store ``x.h5`` beside a folder ``x`` of shards is their merge."""
    shards = [file for file in files if file.parent == store.with_suffix("") and _SHARD.fullmatch(file.name)]
    try:
        whole, parts = read_manifest(store), [read_manifest(shard) for shard in shards]
    except StoreError:
        return []  # reported with the file itself
    rows = sum(part.rows for part in parts if part is not None)
    if not shards or whole is None or None in parts or rows == whole.rows:
        return []
    what = f"{whole.rows} problems where its {len(shards)} shards in {store.with_suffix('')} hold {rows}"
    return [Finding(store, what, "restore the missing shard, or delete the store and its manifest and merge again")]


def _file(path: Path) -> list[Finding]:
    """Faults of one published file: what its manifest shows, and what its content shows."""
    findings = []
    for check in (check_manifest, _check_content):
        try:
            check(path)
        except (StoreError, PlatformError, OSError) as error:
            findings.append(_finding(path, error))
    return findings


def _check_content(path: Path) -> None:
    if path.suffix != ".h5" or not path.exists():
        return
    manifest = None
    with suppress(StoreError, OSError):  # which the check before has found
        manifest = read_manifest(path)
    if manifest is not None and manifest.schema != MANIFEST_SCHEMA:
        what = f"manifest says schema {manifest.schema!r}, not {MANIFEST_SCHEMA!r}"
        raise StoreError(f"{path}: {what}; read it with the version of hpcmaf that wrote it")
    with Store(path) as store:
        if manifest is not None and manifest.rows != len(store):
            raise StoreError(f"{path}: {len(store)} problems where its manifest says {manifest.rows}; {REMEDY}")
        for name, rows in store.columns(gold=True).items():
            if not store.dataset(name).fletcher32:
                store.refuse(name, "carries no checksum, so damage to it would not show")
            store.check_rows(name, rows)
        seen: set[str] = set()
        for transcript in store.transcripts(gold=True):
            if transcript.problem.id in seen:
                store.refuse("problems/id", f"problem {transcript.problem.id!r} comes twice")
            seen.add(transcript.problem.id)


def _finding(path: Path, error: StoreError | PlatformError | OSError) -> Finding:
    """An error's line, taken apart: ``file: what; remedy``."""
    line = str(system_error(error) if isinstance(error, OSError) else error)
    what, _, remedy = line.removeprefix(f"{path}: ").rpartition("; ")
    return Finding(path, what, remedy) if what else Finding(path, remedy, REMEDY)
