"""The layout of ``metrics.json`` and ``diversity.json``, checked before anything is read from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from hpcmaf.debate.health import Health, Share
from hpcmaf.errors import DataError
from hpcmaf.evaluation.measures import DIVERSITY_SCHEMA, SCHEMA, SCHEMAS, declared, measures_of
from hpcmaf.files.publish import Record, first_fault
from hpcmaf.run.records import Selection

# Bounds, so that whatever is read can be added, squared and averaged.
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Error = Annotated[float, Field(ge=0, le=2**53)]


class _Estimate(Record):
    value: Share
    se: Share


class _Accuracy(_Estimate):
    agents: _Count
    rounds: _Count


class _Round(Record):
    agents: list[_Estimate] = Field(min_length=1)
    mean: _Estimate
    vote: _Estimate


class _Scores(Record, extra="allow"):
    # By the name of the measure.
    __pydantic_extra__: dict[str, str]
    problem_ids: list[str]
    # Not in files of earlier versions.
    agreeing: list[_Count] | None = None
    agents: list[list[str]] = []


class _Metrics(Health):
    schema_: Literal[SCHEMA] = Field(alias="schema")  # type: ignore[valid-type]
    iteration: _Count
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

    @model_validator(mode="after")
    def _fits(self) -> _Metrics:
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
    value: Annotated[float, Field(ge=-(2**53), le=2**53)]
    se: _Error


class Diversity(Record):
    """Of ``diversity.json``."""

    schema_: Literal[DIVERSITY_SCHEMA] = Field(alias="schema")  # type: ignore[valid-type]
    measures: dict[str, _Measure | None]


def read_metrics(metrics: Mapping[str, Any], where: str, t: int) -> Mapping[str, Any]:
    """A ``metrics.json`` of iteration t, of whatever version, as today's.

    Raises
    ------
    DataError
        It cannot be used; in one line.
    """
    if metrics.get("schema") not in SCHEMAS:
        raise DataError(f"{where}: schema {metrics.get('schema')!r} instead of {SCHEMA!r}")
    try:
        metrics = declared(metrics)
        if (number := _Metrics.model_validate(metrics).iteration) != t:
            raise DataError(f"{where}: says iteration {number}")
    except ValidationError as error:
        raise DataError(f"{where}: damaged ({first_fault(error)})") from error
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where}: damaged ({error!r})") from error
    return metrics
