"""Files appear whole or not at all; locks for work that may be done twice wait, unless there is no lock to be had."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcmaf.errors import DataError
from hpcmaf.files import locking
from hpcmaf.files.locking import locked
from hpcmaf.files.publish import (
    Amount,
    Count,
    Record,
    atomic_path,
    check_manifest,
    file_sha256,
    manifest_path,
    read_bytes,
    read_json,
    sync,
    write_json,
    write_text,
)


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "f.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["f.txt"]


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


# --- what file systems lack, and what does not go at once -----------------------------


def test_procfs_that_cannot_sync_folders_is_passed_over(tmp_path: Path) -> None:
    """procfs says EINVAL, as CIFS and many a FUSE do; a file that cannot be synced is an error."""
    sync(Path("/proc"))
    with pytest.raises(OSError, match="Invalid argument"):
        sync(Path("/proc/self/cmdline"))
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "none")


def test_what_is_published_does_not_fail_for_what_stays_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """NFS keeps a file that somebody has open, and its folder with it."""
    tries = []

    def busy(path: Path, **_: object) -> None:
        tries.append(path)
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))

    target = tmp_path / "run" / "model"
    for content in ("first", "second"):
        with monkeypatch.context() as patch, atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
            patch.setattr(shutil, "rmtree", busy)
            patch.setattr("time.sleep", lambda seconds: None)
            left = temporary
    assert not left.exists() and [path.name for path in target.iterdir()] == ["second"]
    assert len(tries) == 3, "it is tried again"
    (behind,) = (path for path in target.parent.iterdir() if path != target)
    assert behind.match(".*.tmp"), "the next to go on with the run takes it away"
    assert "could not be deleted (Directory not empty), and stays" in capsys.readouterr().err


# --- records --------------------------------------------------------------------------


class Sample(Record):
    count: Count
    spent: Amount | None = None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "damaged (Expecting value"),
        ("[]", "not a JSON object"),
        ("{}", "damaged (count: Field required)"),
        ('{"count": null}', "damaged (count: Input should be a valid integer)"),
        ('{"count": "one"}', "damaged (count: Input should be a valid integer)"),
        ('{"count": true}', "damaged (count: Input should be a valid integer)"),
        ('{"count": -1}', "damaged (count: Input should be greater than or equal to 0)"),
        ('{"count": 1' + "0" * 30 + "}", "damaged (a number of 31 digits)"),
        ('{"count": 1, "spent": NaN}', "damaged (NaN is no finite number)"),
        ('{"count": 1, "spent": 1e300}', "damaged (spent: Input should be less than"),
        ("[" * 100_000, "damaged (maximum recursion depth"),
        ("\xff", "damaged ("),
    ],
)
def test_a_record_is_what_it_should_be_or_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        read_json(path, Sample)
    assert str(caught.value).startswith(f"{path}: {said}") and "\n" not in str(caught.value)


def test_a_record_keeps_what_a_later_version_adds_and_has_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    value = {"count": 1, "later": [1, {"text": "\ud800"}]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", Sample) == value
    write_json(tmp_path / "b.json", dict(reversed(value.items())))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.timeout(20)
def test_what_is_no_file_is_an_error_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    odd = [
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path, "Is a directory"),
        (Path("/dev/zero"), "not a regular"),
    ]
    for path, said in [*odd, (Path("/proc/self/mem"), "Input/output error")]:
        for read in (read_bytes, file_sha256):
            with pytest.raises(OSError, match=said) as caught:
                read(path)
            assert str(caught.value.filename) == str(path) or said == "Input/output error"
    write_json(manifest_path(tmp_path / "pipe"), {"sha256": "", "bytes": 0, "rows": 0, "schema": "x/1"})
    with pytest.raises(OSError, match="not a regular file"):
        check_manifest(tmp_path / "pipe")


def test_one_compiles_and_the_others_wait(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    async def hold(name: str) -> None:
        async with locked(tmp_path / "lock", None, lambda: None, "another task to compile"):
            order.append(name)
            await asyncio.sleep(0.7)
            order.append(name)

    async def both() -> None:
        await asyncio.gather(hold("a"), hold("b"))

    asyncio.run(both())
    assert order in (list("aabb"), list("bbaa"))
    assert capfd.readouterr().err.count("waiting for another task to compile") == 1


def test_a_lock_that_is_not_to_be_had_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither where the file system has none, nor where another holds it for ever, nor when asked to stop."""

    async def take(patience: float | None, tick: Callable[[], None] = lambda: None) -> None:
        async with locked(tmp_path / "lock", patience, tick, "another task"):
            pass

    with (tmp_path / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        asyncio.run(take(0.2))
        assert "going on without it" in capfd.readouterr().err
        with pytest.raises(KeyError):
            asyncio.run(take(None, lambda: {}["stop"]))

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locking.fcntl, "flock", refuse)
    asyncio.run(take(None))
    assert "No locks available; going on without a lock" in capfd.readouterr().err
