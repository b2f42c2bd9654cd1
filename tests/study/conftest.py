"""What all tests of studies use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hpcmaf.files import publish
from tests.study.studies import Hands


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "sync", lambda path: None)


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hands]:
    yield Hands(monkeypatch)
