"""Recipe + profile -> plan: every stage of every iteration, before anything runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from hpcmaf.config.profile import Generation, Profile
from hpcmaf.config.recipe import Recipe
from hpcmaf.errors import DataError, PlanChangedError
from hpcmaf.files.publish import Record, read_json
from hpcmaf.run.stages import STAGES, StageKind, StageSpec
from hpcmaf.tasks.problems import Problem, to_lines

SCHEMA = "hpcmaf-plan/1"

_MISSING = object()
# Recipe keys on which no task's results depend.
_FREE = {"iterations", "early_stop", "description"}

# Stage id and task.
TaskKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Stage:
    """Tasks that may run side by side once the stages in ``after`` are done.

    Attributes
    ----------
    kind
        A row of :data:`hpcmaf.run.stages.STAGES`.
    after
        Ids of the stages whose outputs this one reads.
    """

    iteration: int
    kind: StageKind
    tasks: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def id(self) -> str:
        """Such as ``it01/debate``."""
        return stage_id(self.iteration, self.kind)

    @property
    def spec(self) -> StageSpec:
        """What is known of its kind."""
        return STAGES[self.kind]


def stage_id(iteration: int, kind: str) -> str:
    """Name of a stage, and of its folder's place in the run directory."""
    return f"it{iteration:02d}/{kind}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do; the same recipe, problems and shards give the same sha256.

    Attributes
    ----------
    recipe
        The whole recipe, with defaults filled in.
    problems
        Split name to ``{"count", "sha256"}`` of its file.
    base
        What identifies the base model's weights.
    """

    recipe: Mapping[str, Any]
    problems: Mapping[str, Mapping[str, Any]]
    base: str
    stages: tuple[Stage, ...]

    def body(self) -> dict[str, Any]:
        """Everything the digest covers, as JSON values."""
        value = {"schema": SCHEMA, "recipe": self.recipe, "problems": self.problems, "base": self.base}
        return json.loads(json.dumps(value | {"stages": [asdict(stage) for stage in self.stages]}))

    @property
    def sha256(self) -> str:
        """Digest of the plan."""
        return _digest(self.body())

    @property
    def identity(self) -> str:
        """Digest of what more iterations do not change; a task's results depend on no more."""
        body = _unlimited(self.body())
        body["tasks"] = body["tasks"]["eval"]
        return _digest(body)

    def to_json(self) -> dict[str, Any]:
        """The content of ``plan.json``."""
        return self.body() | {"sha256": self.sha256}

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read ``plan.json``.

        Raises
        ------
        FileNotFoundError
            There is none.
        PlanChangedError
            Its content is not what its digest says, or not a plan at all.
        """
        try:
            value = read_json(path, _PlanFile)
        except DataError as error:
            raise PlanChangedError(f"{error}: not a plan of this version; start a new run with --run NAME") from error
        if value.pop("sha256") != _digest(value):
            raise PlanChangedError(f"{path}: edited since the run began; restore it, or start a new run with --run")
        stages = tuple(Stage(s["iteration"], s["kind"], tuple(s["tasks"]), tuple(s["after"])) for s in value["stages"])
        return cls(value["recipe"], value["problems"], value["base"], stages)

    def stage(self, id: str) -> Stage:
        """Stage by id."""
        return next(stage for stage in self.stages if stage.id == id)

    @property
    def iterations(self) -> int:
        """L of the recipe."""
        return int(self.recipe["iterations"])


class _PlanFile(Record):
    schema_: Literal[SCHEMA] = Field(alias="schema")  # type: ignore[valid-type]
    recipe: Recipe
    sha256: str  # of all else, which is therefore as this program wrote it


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def describe_problems(problems: Sequence[Problem]) -> dict[str, Any]:
    """A split's entry in the plan: number of problems, and the digest of their file."""
    return {"count": len(problems), "sha256": hashlib.sha256(to_lines(problems).encode()).hexdigest()}


def shard_count(problems: int, generation: Generation) -> int:
    """Number of debate tasks for so many problems."""
    return max(1, min(generation.max_shards, -(-problems // generation.problems_per_shard), problems))


def build_plan(recipe: Recipe, profile: Profile, problems: Mapping[str, Mapping[str, Any]], base: str) -> Plan:
    """Lay out all stages of a run.

    Evaluation of iteration t and the debates of t + 1 both wait for the
    finetuning of t alone, so they run beside each other.
    """
    shards = {split: shard_count(problems[split]["count"], profile.generation) for split in ("train", "eval")}
    stages: list[Stage] = []
    for t in range(recipe.iterations + 1 if recipe.trained else 1):
        kinds = {kind: spec for kind, spec in STAGES.items() if t or spec.evaluates}
        there = {stage.id for stage in stages} | {stage_id(t, kind) for kind in kinds}
        for kind, spec in kinds.items():
            inputs = (stage_id(t - back, needed) for needed, back in spec.inputs if t >= back)
            after = tuple(id for id in inputs if id in there)
            if recipe.early_stop and kind == "debate":  # whether there is to be another iteration
                after += (stage_id(t - 1, "score"),)
            stages.append(Stage(t, kind, spec.tasks(shards[spec.split], recipe.trained), after))
    return Plan(recipe.model_dump(mode="json"), problems, base, tuple(stages))


def check_continues(old: Plan, new: Plan, where: str) -> None:
    """Refuse to go on with a run under another plan.

    More iterations of the very same plan are no other plan: what is done stays valid, and the run is extended.

    Raises
    ------
    PlanChangedError
        Names the first thing that differs.
    """
    remedy = "undo the change, or start a new run with --run NAME"
    for key, was, now in _differences(_unlimited(old.body()), _unlimited(new.body())):
        if key.startswith("tasks.") and _MISSING in (was, now):
            continue  # a plan without iterations has no training shards
        if was is _MISSING:
            earlier = f"by an earlier version of hpcmaf, which had no {key}; finish it with that"
            raise PlanChangedError(f"{where}: the run was planned {earlier}, or start a new run with --run NAME")
        raise PlanChangedError(f"{where}: the run was planned with {key} = {was}, now it is {now}; {remedy}")
    if new.iterations < old.iterations:
        shorter = f"{old.iterations} iterations, now {new.iterations}: it can be extended but not shortened"
        raise PlanChangedError(f"{where}: the run was planned with {shorter}; {remedy}")


def _unlimited(body: dict[str, Any]) -> dict[str, Any]:
    """The plan without what more iterations change; shards are compared as layout."""
    shards = {stage["kind"]: len(stage["tasks"]) for stage in body["stages"]}
    recipe = {key: value for key, value in body["recipe"].items() if key not in _FREE}
    return {"recipe": recipe, "problems": body["problems"], "base": body["base"], "tasks": shards}


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Keys under which two mappings differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            below = f"{prefix}.{key}" if prefix else key
            yield from _differences(old.get(key, _MISSING), new.get(key, _MISSING), below)
    elif old != new:
        yield prefix, old, new
