"""What several runs show, put together once for every form it is written in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from hpcmaf.evaluation import MEASURES
from hpcmaf.report.behaviour import behaviour_tables
from hpcmaf.report.claims import Claim, claim_tables, claims
from hpcmaf.report.compare import Tested
from hpcmaf.report.cost import method_cost_table
from hpcmaf.report.groups import Group, common_title
from hpcmaf.report.learned import warnings
from hpcmaf.report.methods import Row, method_tables, rows, task_tables
from hpcmaf.report.paired import Test
from hpcmaf.report.records import Run
from hpcmaf.report.sections import comparisons, group_table, run_tables
from hpcmaf.report.table import Table

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Report:
    """What several runs show.

    Attributes
    ----------
    runs, groups
        All runs by name, and put together by recipe.
    baseline, tested
        What recipes are compared with, and how that came out.
    reference
        Whether the paper's values are to be shown.
    """

    runs: tuple[Run, ...]
    groups: tuple[Group, ...]
    baseline: str | None = None
    tested: tuple[Tested, ...] = ()
    reference: bool = False

    @cached_property
    def rows(self) -> list[Row]:
        """The comparison of methods, a row per recipe."""
        return rows(self.groups, self.tested, self.reference)

    @cached_property
    def claims(self) -> list[Claim]:
        """How the paper's claims come out here, where their methods are."""
        return claims(self.groups)

    @cached_property
    def behaviour(self) -> dict[str, list[Table]]:
        """What debates do, by a recipe's label."""
        return {group.label: behaviour_tables(group) for group in self.groups}

    @property
    def title(self) -> str:
        """What all runs have in common."""
        return common_title(self.groups)

    @property
    def missing(self) -> list[str]:
        """What the runs lack, one line each."""
        return [f"{run.name}: {line}" for run in self.runs for line in run.missing]

    @property
    def warnings(self) -> list[str]:
        """What is there and cannot mean much, one line each."""
        return [line for run in self.runs for line in warnings(run)]

    @cached_property
    def findings(self) -> list[tuple[str, str]]:
        """What holds, what does not and what stays open here: a verdict and a sentence each, with its p."""
        several = len({group.place for group in self.groups}) > 1
        found: list[Test] = [
            replace(one, text=f"{' · '.join(one.place)}: {one.text}") if several else one for one in self.claims
        ]
        found += self.tested
        for run in [] if found else self.runs:
            for one in comparisons(run):
                own = f"{run.name}: {MEASURES[run.last.own]} after iteration {one.iteration}" if run.last else run.name
                found.append(replace(one, text=f"{own}, against the untouched base's {MEASURES[one.measure]}"))
        return [(one.verdict, one.sentence) for one in found if one.result]

    def tables(self) -> list[Table]:
        """The tables for a terminal: one run in full, several side by side."""
        if len(self.runs) == 1:
            return [*run_tables(self.runs[0]), *self.method_tables()]
        repeated = [group for group in self.groups if len(group.runs) > 1]
        # Beyond a screenful the methods say more; report.md has them all.
        return [
            *self.method_tables(),
            *map(group_table, repeated if len(repeated) <= 4 else []),
        ]

    def method_tables(self) -> list[Table]:
        """Methods side by side, where there is something to compare, claims, transfers, and what they cost."""
        if len(self.groups) < 2 and not self.tested and not self.reference:
            return []
        tables = method_tables(self.rows, self.baseline, self.reference) + claim_tables(self.claims)
        if any(group.any.transferred for group in self.groups):
            tables += self.task_tables()
        cost = method_cost_table(self.groups)
        return tables + ([cost] if cost.rows else [])

    def task_tables(self) -> list[Table]:
        """Methods by task, as a paper has them."""
        return task_tables(self.rows, self.baseline, self.reference)

    @property
    def text(self) -> str:
        """The report as plain text."""
        lists = [
            "\n".join([name, *(f"  {line}" for line in lines)])
            for name, lines in (("Missing", self.missing), ("Warnings", self.warnings))
            if lines
        ]
        return "\n\n".join(part for part in (self.title, *(table.plain() for table in self.tables()), *lists) if part)

    def print(self, console: Console) -> None:
        """Write to a console: with frames on a terminal, as ``text`` into a pipe or file."""
        if not console.is_terminal:
            console.file.write(self.text + "\n")
            return
        from rich.text import Text

        console.print(Text(self.title, style="bold"))
        for table in self.tables():
            console.print(table.rich())
        for line in (*(f"missing: {line}" for line in self.missing), *(f"warning: {line}" for line in self.warnings)):
            console.print(Text(line, style="yellow"))
