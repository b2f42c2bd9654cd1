"""Find what is wrong with a store, a folder of shards or a whole run: of each fault a line with file and remedy."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from hpcmaf.errors import PlatformError, StoreError, system_error
from hpcmaf.files.publish import check_manifest, manifest_path, read_manifest
from hpcmaf.store.reader import REMEDY, Store, reading
from hpcmaf.store.schema import DATASETS

MANIFEST_SUFFIX = ".manifest.json"
_SHARD = re.compile(r"shard-(\d+)\.h5")


def verify(path: Path) -> list[str]:
    """Check a store, or everything published beneath a folder; a line for each fault.

    A store is compared with its manifest, and every column is read, with its checksums and row counts, and every
    debate. A folder (of shards, or a run) is searched for stores and manifests, for gaps in the numbering of shards,
    and temporaries that a killed writer left behind.

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


def _folder(folder: Path) -> list[str]:
    described = {_described(path) for path in folder.rglob(f"*{MANIFEST_SUFFIX}")}
    files = sorted(described | {p for p in folder.rglob("*.h5") if p.is_file()})
    temporaries = sorted(folder.rglob(".*.tmp"))
    if not files and not temporaries:
        raise StoreError(f"{folder}: holds neither stores nor manifests; give a store, a folder of shards or a run")
    findings = [line for file in files for line in _file(file)]
    for parent in sorted({file.parent for file in files}):
        findings += _gap(parent, [file for file in files if file.parent == parent and _SHARD.fullmatch(file.name)])
    left = "temporary of a writer that was killed, or is still at work; delete it once no job writes there"
    return findings + [f"{temporary}: {left}" for temporary in temporaries]


def _gap(folder: Path, shards: list[Path]) -> list[str]:
    """A line where a folder's shards lack a number."""
    names = {int(path.stem.partition("-")[2]): path.name for path in shards}
    if len(names) > (last := max(names, default=-1)):
        return []
    return [f"{folder}: shards before {names[last]} are missing; rerun the tasks that write them"]


def _file(path: Path) -> list[str]:
    """Faults of one published file: what its manifest shows, and what its content shows."""
    findings = []
    for check in (check_manifest, _check_content):
        try:
            check(path)
        except (StoreError, PlatformError, OSError) as error:
            findings.append(str(system_error(error) if isinstance(error, OSError) else error))
    return findings


def _check_content(path: Path) -> None:
    if path.suffix != ".h5" or not path.exists():
        return
    manifest = None
    with suppress(StoreError, OSError):  # which the check before has found
        manifest = read_manifest(path)
    with Store(path) as store:
        if manifest is not None and manifest.rows != len(store):
            raise StoreError(f"{path}: {len(store)} problems where its manifest says {manifest.rows}; {REMEDY}")
        store.check_rows(DATASETS)
        for name in DATASETS:
            with reading(path, name):
                for chunk in store.dataset(name).iter_chunks():
                    store.dataset(name)[chunk]  # which compares its checksum
        for _ in store.transcripts(gold=True):
            pass
