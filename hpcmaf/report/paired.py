"""A paired test and what it is about, in a table, in a sentence and in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, TypeVar

from hpcmaf.errors import DataError
from hpcmaf.evaluation import Comparison, compare, holm
from hpcmaf.report.table import NONE

# A difference is one where the adjusted p is below this.
LEVEL = 0.05
TEST = ("points", "95 %", "gained", "lost", "p", "p (Holm)")
# Of each problem whether it is right, or another whole number.
Values = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """Whether something is above something else, on the same problems.

    Attributes
    ----------
    text
        What is compared.
    result
        ``None`` where there is no test; ``fault`` says why.
    p_holm
        Adjusted for all tests of its family.
    facts
        What is compared, for programs.
    verdicts
        What holds where the one is above the other, and where it is below.
    """

    # No class of tests for pytest.
    __test__: ClassVar[bool] = False

    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    verdicts: tuple[str, str] = ("above", "below")
    result: Comparison | None = None
    fault: str | None = None
    p_holm: float | None = None

    @classmethod
    def of(cls, pairs: Sequence[tuple[Values, Values]], scale: int = 1, fault: str = "", **what: Any) -> Self:
        """Test pairs of runs; where they cannot be compared, ``fault`` says why, or else the comparison does."""
        try:
            return cls(result=compare(pairs, scale), **what)
        except DataError as error:
            return cls(fault=fault or str(error), **what)

    @property
    def verdict(self) -> str:
        """One of ``verdicts``, or ``open``: these problems do not tell."""
        if self.result is None or self.p_holm is None or self.p_holm >= LEVEL:
            return "open"
        return self.verdicts[self.result.difference <= 0]

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands below ``TEST``; a difference without its test is not shown."""
        if self.result is None or self.p_holm is None:
            return (NONE,) * len(TEST)
        difference, low, high, gained, lost, p, *_ = self.result
        interval = f"{100 * low:+.2f} to {100 * high:+.2f}"
        return f"{100 * difference:+.2f}", interval, str(gained), str(lost), p_value(p), p_value(self.p_holm)

    @property
    def sentence(self) -> str:
        """The test in words, where there is one."""
        points, *_, p = self.cells
        return f"{self.text}: {points} points, p {'' if p[0] == '<' else '= '}{p}"

    def to_json(self) -> dict[str, Any]:
        """What it is about, and its values or its fault."""
        values = {"fault": self.fault} if self.result is None else self.result._asdict() | {"p_holm": self.p_holm}
        return {**self.facts, "verdict": self.verdict, **values}


T = TypeVar("T", bound=Test)


def family(tests: Sequence[T]) -> list[T]:
    """Tests with p values adjusted for how many of them there are (Holm)."""
    adjusted = iter(holm([one.result.p for one in tests if one.result]))
    return [replace(one, p_holm=next(adjusted)) if one.result else one for one in tests]


def p_value(p: float) -> str:
    """Three decimals, or two digits of a small one; never a bare zero."""
    if p >= 0.001:
        return f"{p:.3f}"
    return f"{p:.1e}" if p >= 1e-99 else "< 1e-99"
