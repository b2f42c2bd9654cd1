"""Shards become one store, whatever the cut, or are refused by name."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from hpcmaf.errors import StoreError
from hpcmaf.files.publish import check_manifest, manifest_path
from hpcmaf.store.merge import merge
from hpcmaf.store.writer import write_store
from tests.store.conftest import INFO, debate, shards

COUNT = 35


def ids(rows) -> list[str]:
    return [f"problem-{row:05d}" for row in rows]


def test_the_cut_does_not_show(tmp_path: Path) -> None:
    wanted = tmp_path / "wanted.h5"
    write_store(wanted, INFO, map(debate, range(COUNT)))
    cuts = {
        "one": [range(COUNT)],
        "seven": [range(k * 5, k * 5 + 5) for k in range(7)],
        "two": [range(1), range(1, COUNT)],
    }
    for name, parts in cuts.items():
        out = tmp_path / f"{name}.h5"
        manifest = merge(shards(tmp_path / name, *parts), out, expected_ids=ids(range(COUNT)))
        assert out.read_bytes() == wanted.read_bytes(), name
        assert manifest == check_manifest(out) and manifest.rows == COUNT


@pytest.mark.parametrize(
    ("parts", "expected", "message"),
    [
        ([range(3), range(2, 5)], None, "out.h5: problem 'problem-00002' comes twice"),
        ([range(3), range(4, 6)], range(6), "5 problems where 6 are expected, missing .*: 'problem-00003'"),
        ([range(3), range(3, 6)], range(5), "6 problems where 5 .*: 'problem-00005'"),
        ([range(3)], [0, 2, 1], "in another order"),
        ([range(2)], range(20), "2 problems where 20 .*'problem-00006';"),
        ([], None, "no shards"),
    ],
)
def test_sets_that_do_not_fit_are_refused(tmp_path: Path, parts, expected, message) -> None:
    out = tmp_path / "out.h5"
    with pytest.raises(StoreError, match=message):
        merge(shards(tmp_path / "bad", *parts), out, expected_ids=None if expected is None else ids(expected))
    assert not out.exists() and not manifest_path(out).exists()


@pytest.mark.parametrize(
    "change", [{"task": "math"}, {"iteration": 2}, {"split": "eval"}, {"answer_form": "boxed"}, {"rounds": 3}]
)
def test_shards_of_another_kind_are_refused(tmp_path: Path, change) -> None:
    (first,) = shards(tmp_path / "one", range(3))
    other = replace(INFO, **change)
    second = tmp_path / "other.h5"
    write_store(second, other, [debate(7, other)])
    with pytest.raises(StoreError, match=f"other.h5: .*{next(iter(change))}=.*, not as "):
        merge([first, second], tmp_path / "out.h5")


def test_damaged_and_unfinished_shards_are_refused(tmp_path: Path) -> None:
    paths = shards(tmp_path / "three", range(3), range(3, 6), range(6, 9))
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:2000] + bytes([whole[2000] ^ 4]) + whole[2001:])
    with pytest.raises(StoreError, match="shard-00001.h5: content differs"):
        merge(paths, tmp_path / "out.h5")
    paths[1].write_bytes(whole)
    manifest_path(paths[2]).unlink()
    with pytest.raises(StoreError, match="shard-00002.h5: has no manifest"):
        merge(paths, tmp_path / "out.h5")
    paths[2].unlink()
    with pytest.raises(StoreError, match="shard-00002.h5"):
        merge(paths, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_a_copy_that_differs_is_not_published(tmp_path: Path, monkeypatch) -> None:
    """A disk that loses what it was given: one answer changes on its way into the copy."""
    paths = shards(tmp_path / "two", range(5), range(5, 9))
    module = import_module("hpcmaf.store.merge")
    write = module.write_store

    def lossy(out, info, transcripts, check):
        def altered():
            for t in transcripts:
                first = replace(t.answers[0][0], text="else") if t.problem.id == "problem-00006" else t.answers[0][0]
                yield replace(t, answers=((first, *t.answers[0][1:]), *t.answers[1:]))

        return write(out, info, altered(), check)

    monkeypatch.setattr(module, "write_store", lossy)
    with pytest.raises(StoreError, match="copy of problem 'problem-00006' differs"):
        merge(paths, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()
