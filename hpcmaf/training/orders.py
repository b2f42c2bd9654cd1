"""What a series of jobs tells the processes that do them one after another: a folder of numbered files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from hpcmaf.publish import write_json

_END = "end"
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Order:
    """One job of a series.

    Attributes
    ----------
    work, output, steps
        See :func:`hpcmaf.training.worker.run`.
    log
        Takes what the processes print from here on.
    started
        Unix time at which the job began.
    coming
        File of the job that is likely to follow, for its data to be prepared.
    """

    work: str
    output: str
    steps: str
    log: str
    started: float
    coming: str | None = None

    def give(self, inbox: Path, number: int) -> None:
        """Let the processes begin it."""
        write_json(_path(inbox, number), asdict(self))

    @classmethod
    def read(cls, inbox: Path, number: int) -> Self | None:
        """An order, if it has been given."""
        try:
            return cls(**json.loads(_path(inbox, number).read_text()))
        except FileNotFoundError:
            return None

    @classmethod
    def wait(cls, inbox: Path, number: int, given_up: Callable[[], bool]) -> Self | None:
        """The order, once it is given; ``None`` when there will be none."""
        while True:
            order = cls.read(inbox, number)
            if order is not None:
                return order
            if (inbox / _END).exists() or not inbox.exists() or given_up():
                return None
            time.sleep(_POLL_S)

    @classmethod
    def last(cls, inbox: Path) -> Self:
        """The newest order that was given."""
        return cls(**json.loads(max(inbox.glob("[0-9]*.json")).read_text()))


def end(inbox: Path) -> None:
    """There will be no more orders."""
    (inbox / _END).touch()


def _path(inbox: Path, number: int) -> Path:
    return inbox / f"{number:04d}.json"
