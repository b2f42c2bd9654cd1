"""What run directories say, read without trusting that they are complete.

Runs are aggregated while they are still going, and from copies that lack
files: whatever is absent or damaged becomes a line in ``missing``, and the
rest is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import Field

from hpcmaf.debate.methods import METHODS
from hpcmaf.errors import DataError
from hpcmaf.evaluation.measures import own_measure
from hpcmaf.files.publish import Record, parse_json, read_bytes
from hpcmaf.report.cost import SCHEMA as LEDGER_SCHEMA
from hpcmaf.report.cost import split, total
from hpcmaf.report.shape import read_diversity, read_metrics
from hpcmaf.run.directory import RunDir
from hpcmaf.run.markers import LedgerRow


class _Ledger(Record):
    schema_: Literal[LEDGER_SCHEMA] = Field(alias="schema")  # type: ignore[valid-type]
    rows: list[LedgerRow]


@dataclass(frozen=True, slots=True)
class Iteration:
    """One iteration's metrics; ``None`` for what is not there.

    Attributes
    ----------
    metrics
        Content of ``metrics.json``.
    cost
        The ledger's totals, see :func:`hpcmaf.report.cost.total`, and its
        ``split``, see :func:`hpcmaf.report.cost.split`.
    diversity
        Content of ``diversity.json``.
    """

    number: int
    metrics: Mapping[str, Any] | None
    cost: Mapping[str, Any] | None
    diversity: Mapping[str, Any] | None = None

    @property
    def own(self) -> str:
        """Name of the measure that the method answers by."""
        return own_measure(self.metrics or {})

    def accuracy(self, measure: str | None = None) -> Mapping[str, Any] | None:
        """Accuracy of a measure, the method's own without a name: ``{"agents", "rounds", "value", "se"}``."""
        return self.metrics["accuracy"].get(measure or self.own) if self.metrics else None

    @property
    def votes(self) -> tuple[str, str]:
        """Whether the first round's vote is right and the last's, a mark for each problem."""
        scores = (self.metrics or {})["scores"]
        return scores.get("vote@1", scores["answer"]), scores[self.own]

    def diverse(self, measure: str) -> Mapping[str, Any] | None:
        """A measure of diversity: ``{"value", "se"}``; ``disagreement`` is 1 - consensus."""
        if measure == "disagreement":  # one agent has none
            several = self.metrics is not None and len(self.metrics["rounds"][-1]["agents"]) > 1
            return self.metrics.get("diversity") if self.metrics and several else None
        return self.diversity["measures"].get(measure) if self.diversity else None

    @property
    def mean_critic(self) -> Mapping[str, float] | None:
        """Mean accuracy of the single critics in the last round; ``None`` without critics."""
        if self.metrics is None or len(self.metrics["rounds"]) < 2:
            return None
        return self.metrics["rounds"][-1]["mean"]


@dataclass(slots=True)
class Run:
    """One run directory.

    Attributes
    ----------
    recipe
        Of the plan; ``None`` where there is no readable plan.
    base
        Fingerprint of the base model; ``None`` where there is no readable plan.
    questions
        Digest of the evaluation problems; ``None`` where unknown.
    planned
        L; ``None`` where unknown.
    missing
        One line for each thing that should be there and is not.
    tests
        Its last iteration against its base, once they have been computed.
    """

    root: Path
    name: str
    recipe: Mapping[str, Any] | None = None
    base: str | None = None
    questions: str | None = None
    planned: int | None = None
    iterations: list[Iteration] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    tests: list[Any] | None = None

    @property
    def evaluated(self) -> list[Iteration]:
        """Iterations with metrics, in order."""
        return [iteration for iteration in self.iterations if iteration.metrics is not None]

    def at(self, t: int) -> Iteration | None:
        """An iteration with metrics; 0 is the untouched base."""
        return next((iteration for iteration in self.evaluated if iteration.number == t), None)

    @property
    def last(self) -> Iteration | None:
        """The latest evaluated iteration."""
        return self.evaluated[-1] if self.evaluated else None

    def spent(self, last: int) -> dict[str, float] | None:
        """Cost of getting to iteration ``last``, evaluation left out; ``None`` where a ledger is missing."""
        costs = {i.number: i.cost["split"] for i in self.iterations if i.cost is not None}
        at = self.at(last)
        if at is None or at.metrics is None or any(t not in costs for t in range(1, last + 1)) or last not in costs:
            return None
        practice = [costs[t]["practice"] for t in range(1, last + 1)]
        problems = at.metrics["problems"]
        return {
            "generated": sum(one["prompt_tokens"] + one["completion_tokens"] for one in practice),
            "trained": sum(one["training_tokens"] for one in practice),
            "gpu_seconds": sum(one["gpu_seconds"] for one in practice),
            "wall_seconds": sum(one["wall_seconds"] for one in practice),
        } | {name: tokens / problems for name, tokens in costs[last]["answering"].items()}

    def setting(self, *keys: str) -> Any:
        """A value of the recipe; ``None`` where there is none."""
        return _within(self.recipe, *keys)

    @property
    def seed(self) -> int | None:
        """Seed of the run."""
        return self.setting("seed")

    @property
    def method(self) -> str | None:
        """Name of the method."""
        return self.setting("method") or self._measured("method")

    @property
    def evaluated_on(self) -> str | None:
        """Name of the task evaluated on."""
        return self.setting("evaluate_on", "name") or self.setting("task", "name") or self._measured("task")

    @property
    def trained_on(self) -> str | None:
        """Name of the task trained on; ``None`` where no agent is trained, or nothing says on what."""
        method = METHODS.get(self.method or "")
        return None if method is not None and method.trained == "none" else self.setting("task", "name")

    @property
    def transferred(self) -> bool:
        """Whether what was trained on one task is evaluated on another."""
        return self.trained_on is not None and self.trained_on != self.evaluated_on

    @property
    def task(self) -> str | None:
        """Name of the task; of a transfer, both."""
        return f"{self.trained_on} → {self.evaluated_on}" if self.transferred else self.evaluated_on

    @property
    def unhinted(self) -> bool:
        """Whether it learned from retries with a hint, in prompts that cannot say one: those of the micro model."""
        method = METHODS.get(self.method or "")
        return method is not None and method.rollout == "hints" and self.setting("task", "prompts") == "compact"

    @property
    def prompted(self) -> str | None:
        """The base, the evaluation problems and how they are put to it; ``None`` where there is no readable plan."""
        if self.recipe is None or self.questions is None:
            return None
        prompts = (self.setting("evaluate_on") or self.setting("task")).get("prompts")
        how = [self.setting("model", "dtype"), self.setting("sampling"), prompts]
        return json.dumps([self.base, self.questions, *how], sort_keys=True)

    @property
    def model(self) -> str | None:
        """The base model's name, without the folders or the owner before it."""
        path = self.setting("model", "path")
        return PurePath(path).name or path if isinstance(path, str) else None

    @property
    def agents(self) -> int | None:
        """N."""
        measured = self._measured("rounds")
        return self.setting("debate", "agents") or (len(measured[0]["agents"]) if measured else None)

    @property
    def rounds(self) -> int | None:
        """M."""
        measured = self._measured("rounds")
        return self.setting("debate", "rounds") or (len(measured) if measured else None)

    def _measured(self, key: str) -> Any:
        return self.last.metrics[key] if self.last and self.last.metrics else None


def _within(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def read_run(path: Path) -> Run:
    """Read a run directory, finished or not.

    Raises
    ------
    DataError
        There is no such folder, or it is no run directory.
    """
    folder = RunDir(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; name a run directory, or a run under runs/")
    if not folder.plan.exists() and not folder.iterations():
        raise DataError(f"{path}: not a run directory (neither plan.json nor it00); check the path")
    run = Run(path, path.resolve().name)
    plan = _read(folder.plan, run, "no recipe, seed or number of iterations")
    if plan is not None:
        _take_plan(plan, run)
    numbers = set(folder.iterations()) | set(range((run.planned or 0) + 1))
    unevaluated = []
    for t in sorted(numbers):
        metrics = None
        if folder.metrics(t).exists():
            left_out = f"iteration {t} is left out"
            metrics = _read(folder.metrics(t), run, left_out, lambda value, t=t: read_metrics(value, t))
        else:
            unevaluated.append(t)
        wanted = metrics is not None or folder.ledger(t).exists()
        cost = _read(folder.ledger(t), run, "no costs", _cost, _Ledger) if wanted else None
        diversity = None
        if folder.diversity(t).exists():
            diversity = _read(folder.diversity(t), run, "no diversity by models", read_diversity)
        if metrics is not None or cost is not None:
            run.iterations.append(Iteration(t, metrics, cost, diversity))
    if unevaluated:
        plural = "s" if len(unevaluated) > 1 else ""
        run.missing.append(f"iteration{plural} {_ranges(unevaluated)}: not evaluated (yet)")
    return run


def _take_plan(plan: Mapping[str, Any], run: Run) -> None:
    try:
        recipe = plan["recipe"]
        sizes = (recipe["seed"], recipe["debate"]["agents"], recipe["debate"]["rounds"])
        names = [recipe["name"], recipe["method"], recipe["task"]["name"], recipe["model"]["path"]]
        if (evaluated_on := recipe.get("evaluate_on")) is not None:
            names.append(evaluated_on["name"])
        if not all(type(size) is int for size in sizes) or not all(isinstance(name, str) for name in names):
            raise ValueError("recipe: a value of the wrong type")
        run.recipe = recipe
        run.planned = max(int(stage["iteration"]) for stage in plan["stages"])
        run.base = str(plan["base"])
        digest = _within(plan, "problems", "eval", "sha256")
        run.questions = digest if isinstance(digest, str) else None
    except (KeyError, TypeError, ValueError) as error:
        run.recipe = run.planned = run.base = run.questions = None
        run.missing.append(
            f"plan.json: not a plan of this version ({error!r}); no recipe, seed or number of iterations"
        )


def _cost(ledger: Mapping[str, Any]) -> dict[str, Any]:
    return total(ledger["rows"]) | {"split": split(ledger["rows"])}


def _read(
    path: Path,
    run: Run,
    consequence: str,
    check: Callable[[dict[str, Any]], Any] = lambda value: value,
    model: type[Record] = Record,
) -> Any | None:
    """What ``check`` makes of the JSON object in a file, or ``None`` and a line about it."""
    where = path.relative_to(run.root).as_posix()
    try:
        return check(parse_json(read_bytes(path), model, where))
    except FileNotFoundError:
        fault = f"{where}: missing"
    except OSError as error:
        fault = f"{where}: unreadable ({error.strerror})"
    except DataError as error:
        fault = str(error)
    except ValueError as error:
        fault = f"{where}: {error}"
    run.missing.append(f"{fault}; {consequence}")
    return None


def _ranges(numbers: list[int]) -> str:
    """``[1, 3, 4, 5]`` as ``1, 3-5``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
