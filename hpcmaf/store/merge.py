"""Shards to one store, by verified copy.

HDF5's virtual datasets would do the same without copying, but give fill
values where a shard is missing, and say nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from hpcmaf.debate.transcript import Transcript
from hpcmaf.errors import StoreError
from hpcmaf.files.publish import Manifest, atomic_path, check_manifest, manifest_path, write_manifest
from hpcmaf.store.reader import REMEDY, Store
from hpcmaf.store.schema import MANIFEST_SCHEMA, StoreInfo
from hpcmaf.store.writer import write_file


def merge(shards: Sequence[Path], out: Path, *, expected_ids: Sequence[str] | None = None) -> Manifest:
    """Copy the debates of several stores into one, and read the copy back.

    Each shard is compared with its manifest first, and every debate of the
    copy with its original before the copy is published. The outcome does not
    depend on how the problems were cut into shards.

    Parameters
    ----------
    shards
        Published stores with equal :class:`StoreInfo`, in their order.
    out
        The merged store.
    expected_ids
        All problems that must be there, in the order they must have.

    Raises
    ------
    StoreError
        A shard is damaged or differs in kind, a problem is missing, comes
        twice or is not expected, or the copy differs from its original.
    """
    if not shards:
        raise StoreError(f"{out}: no shards to merge; run the stage that writes them first")
    info, found = _survey(shards)
    if expected_ids is not None:
        _check_ids(list(found), expected_ids, out)
    with atomic_path(out) as temporary:
        rows = write_file(temporary, info, _debates(shards), out)
        _compare(temporary, _debates(shards), out)
        manifest_path(out).unlink(missing_ok=True)
    return write_manifest(out, rows=rows, schema=MANIFEST_SCHEMA)


def _survey(shards: Sequence[Path]) -> tuple[StoreInfo, dict[str, Path]]:
    """What the shards have in common, and the shard of each problem."""
    info: StoreInfo | None = None
    found: dict[str, Path] = {}
    for path in shards:
        manifest = check_manifest(path)
        with Store(path) as store:
            if manifest.rows != len(store):
                raise StoreError(f"{path}: {len(store)} problems where its manifest says {manifest.rows}; {REMEDY}")
            info = info or store.info
            if store.info != info:
                pairs = ((name, value, getattr(info, name)) for name, value in asdict(store.info).items())
                differences = ", ".join(
                    f"{name} {value!r} not {ours!r}" for name, value, ours in pairs if value != ours
                )
                raise StoreError(f"{path}: {differences} as in {shards[0]}; merge shards of one stage only")
            for identifier in store.problem_ids:
                if (other := found.setdefault(identifier, path)) != path:
                    raise StoreError(
                        f"{path}: problem {identifier!r} is also in {other}; delete the shard that does not belong here"
                    )
    assert info is not None
    return info, found


def _check_ids(found: list[str], expected: Sequence[str], out: Path) -> None:
    faults = {"missing": set(expected) - set(found), "not expected": set(found) - set(expected)}
    for what, identifiers in faults.items():
        if identifiers:
            some = ", ".join(map(repr, sorted(identifiers)[:5])) + (", ..." if len(identifiers) > 5 else "")
            raise StoreError(
                f"{out}: {len(identifiers)} problem(s) {what}: {some}; "
                "give the shards of exactly one stage, and rerun what did not finish"
            )
    if found != list(expected):
        raise StoreError(f"{out}: its problems are not in the order that is expected; give each shard once, in order")


def _debates(shards: Sequence[Path]) -> Iterator[Transcript]:
    for path in shards:
        with Store(path) as store:
            yield from store.transcripts(gold=True)


def _compare(copy: Path, originals: Iterator[Transcript], out: Path) -> None:
    with Store(copy) as store:
        for original, copied in zip(originals, store.transcripts(gold=True), strict=True):
            if original != copied:
                raise StoreError(
                    f"{out}: the copy of problem {original.problem.id!r} differs from its original; "
                    "check the disk and merge again"
                )
