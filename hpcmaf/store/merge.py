"""Shards to one store, by verified copy: HDF5's virtual datasets give fill values where a shard is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hpcmaf.debate.transcript import Transcript
from hpcmaf.errors import StoreError
from hpcmaf.files.publish import Manifest, check_manifest
from hpcmaf.store.reader import Store
from hpcmaf.store.schema import StoreInfo
from hpcmaf.store.writer import write_store


def merge(shards: Sequence[Path], out: Path, *, expected_ids: Sequence[str] | None = None) -> Manifest:
    """Copy the debates of several stores into one, and compare the copy with its originals before it is published.

    The outcome does not depend on how the problems were cut into shards.

    Parameters
    ----------
    shards
        Published stores with equal :class:`StoreInfo`, in their order.
    expected_ids
        All problems that must be there, in the order they must have.

    Raises
    ------
    StoreError
        A shard is damaged or differs in kind, a problem is missing, comes twice or is not expected, or the copy differs
        from its original.
    """
    if not shards:
        raise StoreError(f"{out}: no shards to merge; run the stage that writes them first")
    info, found = _survey(shards)
    if expected_ids is not None and found != list(expected_ids):
        odd = sorted({*found} ^ {*expected_ids})
        what = f"missing or not expected: {', '.join(map(repr, odd[:5]))}" if odd else "in another order"
        raise StoreError(
            f"{out}: {len(found)} problems where {len(expected_ids)} are expected, {what}; "
            "give the shards of exactly one stage, in order, and rerun what did not finish"
        )
    return write_store(out, info, _debates(shards), check=lambda copy: _compare(copy, _debates(shards), out))


def _survey(shards: Sequence[Path]) -> tuple[StoreInfo, list[str]]:
    """What the shards have in common, and the ids of their problems."""
    info: StoreInfo | None = None
    found: list[str] = []
    for path in shards:
        check_manifest(path)
        with Store(path) as store:
            info = info or store.info
            if store.info != info:
                raise StoreError(f"{path}: {store.info}, not as {shards[0]}; merge shards of one stage only")
            found += store.problem_ids
    assert info is not None
    return info, found


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
