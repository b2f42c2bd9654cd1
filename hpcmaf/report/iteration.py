"""One evaluated iteration: ``metrics.json`` and ``diversity.json``, checked before anything is read from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hpcmaf.debate.health import Health, Share
from hpcmaf.evaluation import outcomes, own_measure
from hpcmaf.evaluation.measures import DIVERSITY_SCHEMA, SCHEMA, SCHEMAS, declared, measures_of
from hpcmaf.files.publish import Amount, Count, Record
from hpcmaf.run.records import Selection


class _Estimate(Record):
    value: Share
    se: Share


class _Accuracy(_Estimate):
    agents: Count
    rounds: Count


class _Round(Record):
    agents: list[Any] = Field(min_length=1)


class _Scores(Record, extra="allow"):
    # By the name of the measure.
    __pydantic_extra__: dict[str, str]
    problem_ids: list[str]
    # Not in files of earlier versions; those have marks of every agent.
    agreeing: list[Count] | None = None
    agents: Any = None


class Metrics(Health):
    """Of ``metrics.json``, of whatever version."""

    schema_: Literal[SCHEMA] = Field(alias="schema")  # type: ignore[valid-type]
    iteration: Count
    method: str
    problems: int = Field(ge=1)
    accuracy: dict[str, _Accuracy]
    rounds: list[_Round] = Field(min_length=1)
    consensus: Share
    unparsable: Share
    tied: Share
    pseudo_labels: _Estimate | None
    scores: _Scores
    # Not in files of earlier versions.
    diversity: _Estimate | None = None
    selection: Selection | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_todays(cls, value: dict[str, Any]) -> Any:
        if value.get("schema") not in SCHEMAS:
            raise ValueError(f"schema {value.get('schema')!r} instead of {SCHEMA!r}")
        try:
            return declared(value)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(repr(error)) from error

    @model_validator(mode="after")
    def _fits(self) -> Metrics:
        sizes = {name: (one.agents, one.rounds) for name, one in self.accuracy.items()}
        marks, scores, agents = self.scores.__pydantic_extra__, self.scores, {len(one.agents) for one in self.rounds}
        if sizes != measures_of(min(agents), len(self.rounds)) or marks.keys() != sizes.keys() or len(agents) > 1:
            raise ValueError("measures, scores and rounds do not fit")
        each = [scores.problem_ids, set(scores.problem_ids), *marks.values()]
        each += [] if scores.agreeing is None else [scores.agreeing]
        if {len(one) for one in each} != {self.problems}:
            raise ValueError("scores and number of problems do not fit")
        return self


class _Measure(Record):
    value: Annotated[float, Field(gt=-1e15, lt=1e15)]
    se: Amount


class Diversity(Record):
    """Of ``diversity.json``."""

    schema_: Literal[DIVERSITY_SCHEMA] = Field(alias="schema")  # type: ignore[valid-type]
    measures: dict[str, _Measure | None]


@dataclass(frozen=True)
class Iteration:
    """What was measured after an iteration.

    Attributes
    ----------
    metrics, diversity
        Content of the files; of the latter ``None`` where there is none.
    """

    number: int
    metrics: Mapping[str, Any]
    diversity: Mapping[str, Any] | None = None

    @property
    def own(self) -> str:
        """Name of the measure that the method answers by."""
        return own_measure(self.metrics)

    @cached_property
    def values(self) -> Mapping[str, Mapping[str, Any]]:
        """Means over problems with ``value`` and ``se``, by name; ``disagreement`` is 1 - consensus."""
        several = len(self.metrics["rounds"][-1]["agents"]) > 1  # one agent never disagrees
        found = dict(self.diversity["measures"]) if self.diversity else {}
        found |= {"disagreement": self.metrics.get("diversity") if several else None}
        found |= {"pseudo_labels": self.metrics["pseudo_labels"]} | self.metrics["accuracy"]
        return {name: value for name, value in found.items() if value}

    def right(self, measure: str | None = None) -> Mapping[str, bool] | None:
        """Which problems are right by a measure, the method's own without a name; ``None`` where there is none."""
        name = measure or self.own
        return outcomes(self.metrics, name) if name in self.metrics["accuracy"] else None

    @property
    def disagreeing(self) -> Mapping[str, int] | None:
        """Of every problem, how many agents' final answers are not the final vote's; earlier versions do not say."""
        scores, agents = self.metrics["scores"], len(self.metrics["rounds"][-1]["agents"])
        if scores.get("agreeing") is None:
            return None
        return dict(zip(scores["problem_ids"], (agents - count for count in scores["agreeing"]), strict=True))
