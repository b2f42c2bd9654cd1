"""Locks for work that may be done twice: one does it and the others wait, unless there is no lock to be had."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcmaf.files import locking
from hpcmaf.files.locking import locked


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
