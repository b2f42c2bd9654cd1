"""The layout of ``metrics.json``, checked before anything is read from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpcmaf.evaluation import SCHEMA


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


class _Round(_Strict):
    round: int
    agents: list[_Estimate] = Field(min_length=1)
    mean: _Estimate
    vote: _Estimate


class _Scores(_Strict):
    problem_ids: list[str]
    one_answer: str
    majority: str
    debate: str


class _Metrics(_Strict):
    schema_: Literal[SCHEMA] = Field(alias="schema")  # type: ignore[valid-type]
    iteration: int
    method: str
    task: str
    problems: int
    accuracy: _Accuracy
    rounds: list[_Round] = Field(min_length=1)
    consensus: float
    unparsable: float
    tied: float
    pseudo_labels: _PseudoLabels | None
    scores: _Scores


def metrics_fault(metrics: Mapping[str, Any], t: int) -> str | None:
    """Why a ``metrics.json`` of iteration t cannot be used; ``None`` if it can."""
    if metrics.get("schema") != SCHEMA:
        return f"schema {metrics.get('schema')!r} instead of {SCHEMA!r}"
    try:
        read = _Metrics.model_validate(metrics)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return f"damaged ({'.'.join(map(str, first['loc']))}: {first['msg']})"
    if read.iteration != t:
        return f"says iteration {read.iteration}"
    scores = read.scores
    if {len(one) for one in (scores.problem_ids, scores.one_answer, scores.majority, scores.debate)} != {read.problems}:
        return "damaged (scores and number of problems do not fit)"
    return None
