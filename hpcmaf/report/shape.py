"""The layout of ``metrics.json``, checked before anything is read from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hpcmaf.evaluation import SCHEMA

# Written in hpcmaf.evaluation.diversity.measure, which reports need not import.
DIVERSITY_SCHEMA = "hpcmaf-diversity/1"


class _Strict(BaseModel):
    # No "1" for 1; what a later version adds is let through.
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Estimate(_Strict):
    value: float
    se: float


class _PseudoLabels(_Estimate):
    labelled: int
    problems: int


class _Accuracy(_Strict):
    one_answer: _Estimate
    majority: _Estimate
    debate: _Estimate


class _Ratio(_Strict):
    value: float | None
    se: float | None
    count: int
    of: int = Field(ge=0)


class _Movement(_Strict):
    round: int
    corrected: _Ratio
    corrupted: _Ratio
    vote_corrected: _Ratio
    vote_corrupted: _Ratio
    gave_up: _Ratio
    persuaded: _Ratio
    # Not in files of earlier versions.
    majority_corrected: _Ratio | None = None
    split_corrected: _Ratio | None = None


class _Curve(_Strict):
    round: int
    k: list[int] = Field(min_length=1)
    pass_: list[_Estimate] = Field(alias="pass")
    majority: list[_Estimate]

    @model_validator(mode="after")
    def _one_length(self) -> _Curve:
        if not len(self.k) == len(self.pass_) == len(self.majority):
            raise ValueError("as many k as estimates")
        return self


class _Specialisation(_Strict):
    oracle: _Estimate
    gap: _Estimate
    unanimous: _Estimate
    alone: list[_Estimate]
    disagreement: _Estimate | None
    independent: float | None


class _Kind(_Strict):
    problems: int
    agents: list[_Estimate]
    vote: _Estimate


class _Round(_Strict):
    round: int
    agents: list[_Estimate] = Field(min_length=1)
    mean: _Estimate
    vote: _Estimate
    specialisation: _Specialisation | None = None


class _Scores(_Strict):
    problem_ids: list[str]
    one_answer: str
    majority: str
    debate: str
    # Not in files of earlier versions.
    agreeing: list[int] | None = None
    agents: list[list[str]] = []


class _Metrics(_Strict):
    schema_: Literal[SCHEMA] = Field(alias="schema")  # type: ignore[valid-type]
    iteration: int
    method: str
    task: str
    problems: int = Field(ge=1)
    accuracy: _Accuracy
    rounds: list[_Round] = Field(min_length=1)
    consensus: float
    unparsable: float
    tied: float
    pseudo_labels: _PseudoLabels | None
    scores: _Scores
    # Not in files of earlier versions.
    diversity: _Estimate | None = None
    movement: list[_Movement] = []
    curves: list[_Curve] = Field([], max_length=2)
    by_kind: dict[str, dict[str, _Kind]] = {}


class _Measure(_Strict):
    value: float
    se: float
    problems: int


class _Diversity(_Strict):
    schema_: Literal[DIVERSITY_SCHEMA] = Field(alias="schema")  # type: ignore[valid-type]
    iteration: int
    problems: int
    encoder: str | None
    measures: dict[str, _Measure | None]


def diversity_fault(value: Mapping[str, Any]) -> str | None:
    """Why a ``diversity.json`` cannot be used; ``None`` if it can."""
    try:
        _Diversity.model_validate(value)
    except ValidationError as error:
        return _first(error)
    return None


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"damaged ({'.'.join(map(str, first['loc']))}: {first['msg']})"


def metrics_fault(metrics: Mapping[str, Any], t: int) -> str | None:
    """Why a ``metrics.json`` of iteration t cannot be used; ``None`` if it can."""
    if metrics.get("schema") != SCHEMA:
        return f"schema {metrics.get('schema')!r} instead of {SCHEMA!r}"
    try:
        read = _Metrics.model_validate(metrics)
    except ValidationError as error:
        return _first(error)
    if read.iteration != t:
        return f"says iteration {read.iteration}"
    scores = read.scores
    each = [scores.problem_ids, scores.one_answer, scores.majority, scores.debate]
    each += [] if scores.agreeing is None else [scores.agreeing]
    each += [marks for agents in scores.agents for marks in agents]
    if {len(one) for one in each} != {read.problems}:
        return "damaged (scores and number of problems do not fit)"
    return None
