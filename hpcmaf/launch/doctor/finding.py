"""One thing that was looked at, and how it was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found.

    Attributes
    ----------
    area
        What was looked at, such as ``controller``.
    level
        ``warning``: it may work, or could not be found out; ``problem``: it
        will not work.
    remedy
        What to do about it; empty where there is nothing to do.
    """

    area: str
    level: Level
    text: str
    remedy: str = ""


def ok(area: str, text: str) -> Finding:
    """All is well."""
    return Finding(area, "ok", text)


def warning(area: str, text: str, remedy: str) -> Finding:
    """It may work."""
    return Finding(area, "warning", text, remedy)


def problem(area: str, text: str, remedy: str) -> Finding:
    """It will not work."""
    return Finding(area, "problem", text, remedy)
