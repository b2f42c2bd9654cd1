"""From run directories to tables and plots; needs nothing but the directories."""

from __future__ import annotations

from hpcmaf.report.report import Report, aggregate
from hpcmaf.report.table import Table

__all__ = ["Report", "Table", "aggregate"]
