"""What run directories say, read without trusting that they are complete.

Runs are aggregated while they are still going, and from copies that lack files: what is absent or damaged becomes a
line in ``missing``, and the rest is used. Only the plan must be there, as nothing else says what a run is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hpcmaf.config.recipe import Recipe
from hpcmaf.debate.health import Health, Share
from hpcmaf.debate.methods import METHODS, Method
from hpcmaf.errors import DataError
from hpcmaf.evaluation.accuracy import DIVERSITY_SCHEMA, SCHEMA, SCHEMAS, declared, measures_of, own_measure
from hpcmaf.evaluation.alarm import Reading, readings
from hpcmaf.evaluation.significance import outcomes
from hpcmaf.files.publish import Amount, Count, Record, parse_json, read_bytes
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan
from hpcmaf.run.records import Ended, LedgerRow, Selection

# --- files, checked before anything is read from them ---


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
        scores, marks, agents = self.scores, self.scores.__pydantic_extra__, {len(one.agents) for one in self.rounds}
        if sizes != measures_of(min(agents), len(self.rounds)) or marks.keys() != sizes.keys() or len(agents) > 1:
            raise ValueError("measures, scores and rounds do not fit")
        each = (scores.problem_ids, {*scores.problem_ids}, scores.agreeing, *marks.values())
        if {len(one) for one in each if one is not None} != {self.problems}:
            raise ValueError("scores and number of problems do not fit")
        return self


class _Measure(Record):
    value: Annotated[float, Field(gt=-1e15, lt=1e15)]
    se: Amount


class Diversity(Record):
    """Of ``diversity.json``."""

    schema_: Literal[DIVERSITY_SCHEMA] = Field(alias="schema")  # type: ignore[valid-type]
    measures: dict[str, _Measure | None]


class _Ledger(Record):
    schema_: Literal["hpcmaf-ledger/1"] = Field(alias="schema")
    rows: list[LedgerRow]


# --- runs ---


@dataclass(frozen=True)
class Iteration:
    """What was measured after an iteration: content of ``metrics.json`` and, where there is one, ``diversity.json``."""

    number: int
    metrics: Mapping[str, Any]
    diversity: Mapping[str, Any] | None = None

    @property
    def agents(self) -> int:
        """How many agents answered in the last round."""
        return len(self.metrics["rounds"][-1]["agents"])

    @property
    def own(self) -> str:
        """Name of the measure that the method answers by."""
        return own_measure(self.metrics)

    @cached_property
    def values(self) -> Mapping[str, Mapping[str, Any]]:
        """Means over problems with ``value`` and ``se``, by name; ``disagreement`` is 1 - consensus."""
        found = dict(self.diversity["measures"]) if self.diversity else {}
        found |= {"disagreement": self.metrics.get("diversity") if self.agents > 1 else None}
        found |= {"pseudo_labels": self.metrics["pseudo_labels"]} | self.metrics["accuracy"]
        return {name: value for name, value in found.items() if value}

    def right(self, measure: str | None = None) -> Mapping[str, bool] | None:
        """Which problems are right by a measure, the method's own without a name; ``None`` where there is none."""
        name = measure or self.own
        return outcomes(self.metrics, name) if name in self.metrics["accuracy"] else None

    @property
    def disagreeing(self) -> Mapping[str, int] | None:
        """Of every problem, how many agents' final answers are not the final vote's; earlier versions do not say."""
        scores = self.metrics["scores"]
        if scores.get("agreeing") is None:
            return None
        return {problem: self.agents - count for problem, count in zip(scores["problem_ids"], scores["agreeing"])}


@dataclass(eq=False, slots=True)
class Run:
    """One run directory.

    Attributes
    ----------
    evaluated
        Iterations with metrics, in order; 0 is the untouched base.
    ledgers
        Rows of each iteration's ``ledger.json``.
    missing
        One line for each thing that should be there and is not.
    readings
        What iterations show without gold answers.
    kept
        The iteration that the alarm kept, of a run that it may end.
    """

    root: Path
    name: str
    plan: Plan
    recipe: Recipe
    evaluated: list[Iteration] = field(default_factory=list)
    ledgers: dict[int, list[Mapping[str, Any]]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    readings: Sequence[Reading] = ()
    kept: int | None = None

    def at(self, t: int | None) -> Iteration | None:
        """An iteration with metrics."""
        return next((iteration for iteration in self.evaluated if iteration.number == t), None)

    @property
    def method(self) -> Method:
        """Its method."""
        return METHODS[self.recipe.method]

    @property
    def model(self) -> str:
        """The base model's name, or those of all bases, without the folders or the owner before it."""
        models = [self.recipe.of(name).model for name in (None, *self.recipe.named)]
        return " + ".join(dict.fromkeys(PurePath(model.path).name or model.path for model in models))

    @property
    def size(self) -> tuple[int, int]:
        """N and M."""
        return self.recipe.debate.agents, self.recipe.debate.rounds

    @property
    def evaluated_on(self) -> str:
        """Name of the task evaluated on."""
        return self.recipe.evaluation.name

    @property
    def trained_on(self) -> str | None:
        """Name of the task trained on; ``None`` where no agent is trained."""
        return None if self.method.trained == "none" else self.recipe.task.name

    @property
    def transferred(self) -> bool:
        """Whether what was trained on one task is evaluated on another."""
        return self.trained_on not in (None, self.evaluated_on)

    @property
    def questions(self) -> str:
        """Digest of the evaluation problems."""
        return self.plan.problems["eval"]["sha256"]

    @property
    def prompted(self) -> str:
        """The base, the evaluation problems and how they are put to it."""
        recipe = self.recipe
        how = [recipe.sampling.model_dump(), recipe.evaluation.model_dump(include={"prompts"})]
        how += [{key: own.model_dump() for key, own in recipe.agents.items()}] if recipe.agents else []
        return json.dumps([self.plan.base, self.questions, recipe.model.dtype, *how], sort_keys=True)

    @property
    def unhinted(self) -> bool:
        """Whether it learned from retries with a hint, in prompts that cannot say one: those of the micro model."""
        return self.method.rollout == "hints" and self.recipe.task.prompts == "compact"


def read_run(path: Path) -> Run:
    """Read a run directory, finished or not.

    Raises
    ------
    DataError
        There is no such folder, or it is no run directory.
    PlanChangedError
        Its plan is damaged.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; name a run directory, or a run under runs/")
    folder = RunDir(path)
    plan = folder.load_plan()
    run = Run(path, path.resolve().name, plan, Recipe.model_validate(plan.recipe))
    iterations = sorted({*folder.iterations(), *(stage.iteration for stage in plan.stages)})
    for t in iterations:
        metrics = _read(folder.metrics(t), run, Metrics, f"iteration {t} is left out")
        if ledger := _read(folder.ledger(t), run, _Ledger, "no costs", needed=metrics is not None):
            run.ledgers[t] = ledger["rows"]
        if metrics:
            diversity = _read(folder.diversity(t), run, Diversity, "no diversity by models")
            run.evaluated.append(Iteration(t, declared(metrics), diversity))
    if run.recipe.early_stop:
        run.kept = (_read(folder.ended, run, Ended, "the last iteration counts") or {}).get("kept")
    try:
        run.readings = readings(folder)
    except (OSError, DataError) as error:
        run.missing.append(f"{error}; no signs without gold answers")
    if unevaluated := [str(t) for t in iterations if not folder.metrics(t).exists()]:
        run.missing.append(f"iterations {', '.join(unevaluated)}: not evaluated (yet)")
    return run


def _read(
    path: Path, run: Run, model: type[Record], consequence: str, *, needed: bool = False
) -> Mapping[str, Any] | None:
    """The JSON object in a file, or ``None`` and a line about it, also where it is needed and not there."""
    where = path.relative_to(run.root).as_posix()
    try:
        return parse_json(read_bytes(path), model, where)
    except FileNotFoundError:
        if not needed:
            return None
        fault = f"{where}: missing"
    except OSError as error:
        fault = f"{where}: unreadable ({error.strerror})"
    except DataError as error:
        fault = str(error)
    run.missing.append(f"{fault}; {consequence}")
    return None
