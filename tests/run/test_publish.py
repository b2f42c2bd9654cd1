"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpcmaf.errors import StoreError
from hpcmaf.publish import atomic_path, check_manifest, manifest_path, write_json, write_manifest, write_text


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "f.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["f.txt"]


def test_folders_are_published_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for content in ("first", "second"):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [path.name for path in target.iterdir()] == ["second"]


def test_a_folder_is_replaced_by_renames_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed anywhere, there is the old folder whole, the new one whole, or none; never half of one."""
    target = tmp_path / "data"
    for name in "abc":
        target.mkdir(exist_ok=True)
        (target / name).write_text("old")
    moves: list[tuple[str, str]] = []
    replace = os.replace

    def watched(source: Path, to: Path) -> None:
        assert not target.exists() or len(list(target.iterdir())) == 3
        moves.append((Path(source).name, Path(to).name))
        if len(moves) == 2:
            raise OSError("no")
        replace(source, to)

    monkeypatch.setattr(os, "replace", watched)
    with pytest.raises(OSError, match="no"), atomic_path(target) as temporary:
        temporary.mkdir()
    assert sorted(path.name for path in target.iterdir()) == ["a", "b", "c"], "a failure leaves the old folder"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert moves[0][0] == "data" and moves[0][1].endswith(".tmp")


def test_manifests_find_every_change(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"hello")
    with pytest.raises(StoreError, match="never finished"):
        check_manifest(path)
    manifest = write_manifest(path, rows=1, schema="x/1", extra={"a": 1})
    assert check_manifest(path) == manifest
    path.write_bytes(b"hellO")
    with pytest.raises(StoreError, match="sha256"):
        check_manifest(path)
    path.write_bytes(b"hell")
    with pytest.raises(StoreError, match="4 bytes"):
        check_manifest(path)
    path.unlink()
    with pytest.raises(StoreError, match="missing although"):
        check_manifest(path)
    manifest_path(path).write_text("{}")
    with pytest.raises(StoreError, match="not a manifest"):
        check_manifest(path)


def test_same_value_same_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": "\ud800"})
    write_json(tmp_path / "b", {"a": "\ud800", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
