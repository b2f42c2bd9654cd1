"""The layout of ``metrics.json`` and ``diversity.json``, checked before anything is read from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hpcmaf.debate.health import Health, Share
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
    agents: list[_Estimate] = Field(min_length=1)


class _Scores(Record, extra="allow"):
    # By the name of the measure.
    __pydantic_extra__: dict[str, str]
    problem_ids: list[str]
    # Not in files of earlier versions.
    agreeing: list[Count] | None = None
    agents: list[list[str]] = []


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
        wanted = measures_of(len(self.rounds[0].agents), len(self.rounds))
        if {name: (one.agents, one.rounds) for name, one in self.accuracy.items()} != wanted:
            raise ValueError("measures that its rounds do not have")
        marks, scores = self.scores.__pydantic_extra__, self.scores
        if marks.keys() != wanted.keys():
            raise ValueError("measures without scores, or scores of none")
        each = [scores.problem_ids, *marks.values(), *([] if scores.agreeing is None else [scores.agreeing])]
        if {len(one) for one in each} | {len(set(scores.problem_ids))} != {self.problems}:
            raise ValueError("scores and number of problems do not fit")
        if len({len(one.agents) for one in self.rounds}) > 1:
            raise ValueError("not as many agents in every round")
        return self


class _Measure(Record):
    value: Annotated[float, Field(gt=-1e15, lt=1e15)]
    se: Amount


class Diversity(Record):
    """Of ``diversity.json``."""

    schema_: Literal[DIVERSITY_SCHEMA] = Field(alias="schema")  # type: ignore[valid-type]
    measures: dict[str, _Measure | None]
