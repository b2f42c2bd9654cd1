"""Numbers on the command line."""

from __future__ import annotations

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """A range of numbers that ``nan`` and ``inf`` are outside of; click lets both in."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> float:
        """Parse and check one value."""
        number = super().convert(value, param, context)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, context)
        return number
