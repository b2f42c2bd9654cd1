"""Runs in this process: whole ones, and such whose models are played.

Of the latter only what needs a model is played: an engine that answers by the
request's seed, and finetuning that writes down its job.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpcmaf.config import DEFAULT_RECIPE
from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import load_profile
from hpcmaf.config.recipe import Recipe
from hpcmaf.debate.consensus import consensus
from hpcmaf.debate.transcript import Transcript
from hpcmaf.engines import Request
from hpcmaf.files import publish
from hpcmaf.jobs import debate as debate_stage
from hpcmaf.jobs import finetune as finetune_stage
from hpcmaf.jobs import task as entry
from hpcmaf.jobs.context import limit_threads
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.run.attempts import begin
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage
from hpcmaf.store.reader import Store
from hpcmaf.training.config import FinetuneReport
from hpcmaf.training.launch import Workers
from tests.debate.scripted import ScriptedEngine

N, M, TRAIN, EVAL = 4, 3, 60, 20
SHAPE = (f"debate.agents={N}", f"debate.rounds={M}", f"task.train={TRAIN}", f"task.eval={EVAL}", "selection.mix=exact")
MUTE = "no idea"


def reply(request: Request) -> str:
    """Often right, sometimes wrong in one of two ways, sometimes nothing that can be read as an answer."""
    name, right = request.key.split("/")[0], 1
    if name.startswith("arithmetic-"):
        a, b, c, d, e, f = map(int, re.findall(r"\d+", name.partition("#")[0]))
        right = a + b * c + d - e * f
    draw = random.Random(request.seed)
    return draw.choice([f"so {right}", f"so {right}", f"={right}", f"={right + 1}", f"={right + 2}", MUTE])


class Player(ScriptedEngine):
    """An engine as the stage uses it."""

    seconds = 1.5
    peak_memory_bytes = 0
    device = SimpleNamespace(type="cpu")


@dataclass
class Played:
    """A run, and what its stages asked of engines and of finetuning."""

    run: RunDir
    plan: Plan
    recipe: Recipe
    requests: dict[str, list[Request]] = field(default_factory=dict)
    models: dict[str, dict[str, str]] = field(default_factory=dict)
    jobs: dict[tuple[int, str], Any] = field(default_factory=dict)

    def debates(self, t: int, kind: str = "debate") -> list[Transcript]:
        with Store(self.run.store(t, kind)) as store:
            return list(store.transcripts(gold=True))

    def lines(self, t: int, agent: str) -> dict[str, dict[str, Any]]:
        found = samples(self.run.dataset(t, agent))
        assert len({line["problem_id"] for line in found}) == len(found), "a sample was drawn twice"
        return {line["problem_id"]: line for line in found}

    def label(self, t: int, debate: Transcript) -> str | None:
        return consensus(debate, M, self.recipe.seed, t).answer


def prepare(
    root: Path,
    patch: pytest.MonkeyPatch,
    *overrides: str,
    say: Callable[[Request], str] = reply,
    shard: int = 25,
    iterations: int = 2,
) -> Played:
    """A planned run whose stages will be played."""
    recipe = load_recipe(overrides=(*SHAPE, *overrides), iterations=iterations)
    profile = load_profile("local", (f"generation.problems_per_shard={shard}",))
    run = RunDir(root)
    played = Played(run, prepare_run(run, recipe, profile), recipe)

    def engine(context: Any, served: Any, journal: Any, watch: Any) -> Player:
        made = Player(say, order_seed=len(played.requests))
        played.requests.setdefault(context.stage.id, made.requests)
        made.requests = played.requests[context.stage.id]
        played.models[context.stage.id] = {name: model for one in served for name, model in one.agents.items()}
        return made

    def finetune(job: Any, *_: Any, **__: Any) -> FinetuneReport:
        played.jobs[job.iteration, job.agent] = job
        return pretend(job)

    # Nobody pulls the plug here, and forcing thousands of small files to disk takes minutes.
    patch.setattr(publish, "sync", lambda path: None)
    patch.setattr(debate_stage, "make_engine", engine)
    patch.setattr(finetune_stage, "run_finetune", finetune)
    return played


def pretend(job: Any, *_: Any, **__: Any) -> FinetuneReport:
    """In the place of finetuning: a model that is its own training set."""
    Path(job.output).mkdir(parents=True, exist_ok=True)
    Path(job.output, "model").write_text(Path(job.dataset).read_text())
    return FinetuneReport(3, 0, 40, 20, 1, 0.5, (0.5,), 2.0, 1.0, 1000, 0.0)


def tasks(plan: Plan) -> Iterator[tuple[Stage, str]]:
    """All tasks, in an order in which they can run."""
    return ((stage, task) for stage in plan.stages for task in stage.tasks)


def run_task(run: RunDir, plan: Plan, stage: Stage, task: str, **shared: Workers) -> None:
    """A new attempt at a task, in this process."""
    entry.run_task(run, stage, task, begin(run.attempts(stage, task)), plan.identity, **shared)


def carry_on(run: RunDir, plan: Plan, workers: Workers | None = None) -> None:
    """Do a run's open tasks here, one after another; all finetuning by the same processes."""
    for stage, task in tasks(plan):
        if not run.done(stage, task):
            run_task(run, plan, stage, task, **{"workers": workers} if workers and stage.kind == "finetune" else {})


def run_here(root: Path, *overrides: str, recipe: str | Path = DEFAULT_RECIPE) -> RunDir:
    """A whole run, as on this machine, but all in this process, and all finetuning in one other."""
    run = RunDir(root)
    profile = load_profile("local", ("generation.device=cpu", "finetuning.device=cpu"))
    plan = prepare_run(run, load_recipe(str(recipe), overrides), profile)
    with pytest.MonkeyPatch.context() as patch, Workers() as workers:
        for name, value in limit_threads(1).items():
            patch.setenv(name, value)
        carry_on(run, plan, workers)
    return run


def play(root: Path, patch: pytest.MonkeyPatch, *overrides: str, **how: Any) -> Played:
    """A run, played to its end."""
    played = prepare(root, patch, *overrides, **how)
    carry_on(played.run, played.plan)
    return played


def samples(path: Path) -> list[dict[str, Any]]:
    """Lines of a training set."""
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
