"""Shards to one store, by verified copy.

HDF5's virtual datasets would do the same without copying, but give fill
values where a shard is missing, and say nothing.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from hpcmaf.debate.transcript import Transcript
from hpcmaf.errors import StoreError
from hpcmaf.files.publish import Manifest, atomic_path, check_manifest, write_manifest
from hpcmaf.store.reader import Store
from hpcmaf.store.schema import MANIFEST_SCHEMA, StoreInfo
from hpcmaf.store.writer import retract_manifest, write_file

# Shards held open at once, and problems each has decoded: bounds on memory
# when the wanted order jumps between shards.
OPEN_SHARDS = 32
BLOCK = 8


def merge(shards: Sequence[Path], out: Path, *, expected_ids: Sequence[str] | None = None) -> Manifest:
    """Copy the debates of several stores into one, and read the copy back.

    Each shard is compared with its manifest first, and every debate of the
    copy with its original before the copy is published. The outcome does not
    depend on how the problems were cut into shards.

    Parameters
    ----------
    shards
        Published stores with equal :class:`StoreInfo`.
    out
        The merged store.
    expected_ids
        All problems that must be there, in the order they are to have;
        without it the order is that of ``shards``.

    Raises
    ------
    StoreError
        A shard is damaged or differs in kind, a problem is missing, comes
        twice or is not expected, or the copy differs from its original.
    """
    if not shards:
        raise StoreError(f"{out}: no shards to merge; run the stage that writes them first")
    shards, out = [Path(shard) for shard in shards], Path(out)
    info, places = _survey(shards)
    order = _order(places, expected_ids, out)
    with atomic_path(out) as temporary:
        rows = write_file(temporary, info, _debates(shards, places, order), out)
        _compare(temporary, _debates(shards, places, order), out)
        retract_manifest(out)
    return write_manifest(out, rows=rows, schema=MANIFEST_SCHEMA)


def _survey(shards: Sequence[Path]) -> tuple[StoreInfo, dict[str, tuple[int, int]]]:
    """What the shards have in common, and (shard, row) of each problem."""
    info: StoreInfo | None = None
    places: dict[str, tuple[int, int]] = {}
    for number, path in enumerate(shards):
        manifest = check_manifest(path)
        with Store(path) as store:
            if manifest.rows != len(store):
                raise StoreError(
                    f"{path}: {len(store)} problems where its manifest says {manifest.rows}; delete both and rerun"
                )
            info = info or store.info
            if store.info != info:
                ours, theirs = asdict(info), asdict(store.info)
                differences = ", ".join(f"{k} {theirs[k]!r} not {ours[k]!r}" for k in ours if ours[k] != theirs[k])
                raise StoreError(f"{path}: {differences} as in {shards[0]}; merge shards of one stage only")
            for row, identifier in enumerate(store.problem_ids):
                if identifier in places:
                    raise StoreError(
                        f"{path}: problem {identifier!r} is also in {shards[places[identifier][0]]}; "
                        "delete the shard that does not belong here"
                    )
                places[identifier] = (number, row)
    assert info is not None
    return info, places


def _order(places: dict[str, tuple[int, int]], expected: Sequence[str] | None, out: Path) -> Sequence[str]:
    if expected is None:
        return list(places)
    faults = {
        "missing": [i for i in expected if i not in places],
        "expected twice": [i for i, count in Counter(expected).items() if count > 1],
        "not expected": list(places.keys() - set(expected)),
    }
    for what, identifiers in faults.items():
        if identifiers:
            raise StoreError(
                f"{out}: {len(identifiers)} problem(s) {what}: {_some(identifiers)}; "
                "give the shards of exactly one stage, and rerun what did not finish"
            )
    return expected


def _some(names: Iterable[str], limit: int = 5) -> str:
    names = sorted(names)
    return ", ".join(map(repr, names[:limit])) + (", ..." if len(names) > limit else "")


def _debates(shards: Sequence[Path], places: dict[str, tuple[int, int]], order: Sequence[str]) -> Iterator[Transcript]:
    """Debates in ``order``; streaming within a shard wherever the order allows it."""
    streams: OrderedDict[int, _Stream] = OrderedDict()
    try:
        for identifier in order:
            number, row = places[identifier]
            if number not in streams:
                if len(streams) >= OPEN_SHARDS:
                    streams.popitem(last=False)[1].close()
                streams[number] = _Stream(shards[number])
            streams.move_to_end(number)
            yield streams[number].take(row)
    finally:
        for stream in streams.values():
            stream.close()


class _Stream:
    """A shard whose rows are mostly taken one after the other."""

    def __init__(self, path: Path) -> None:
        self._store = Store(path)
        self._next = -1
        self._rows: Iterator[Transcript] = iter(())

    def take(self, row: int) -> Transcript:
        expected, self._next = self._next, row + 1
        if row == expected:
            return next(self._rows)
        # After a jump nothing is read ahead until the next row is wanted.
        self._rows = self._store.transcripts(gold=True, start=row + 1, block=BLOCK)
        return self._store.transcript(row, gold=True)

    def close(self) -> None:
        self._store.close()


def _compare(copy: Path, originals: Iterator[Transcript], out: Path) -> None:
    with Store(copy) as store:
        for original, copied in zip(originals, store.transcripts(gold=True), strict=True):
            if original != copied:
                raise StoreError(
                    f"{out}: the copy of problem {original.problem.id!r} differs from its original; "
                    "check the disk and merge again"
                )
