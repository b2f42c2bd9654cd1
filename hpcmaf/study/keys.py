"""What determines a task's outputs, as a hash: tasks of two runs with the same key have the same outputs.

A key covers what a task reads, back to the base and the problems, and how it
works on it; the method's name is not part of it. Where a run computes is
not, either: the plan leaves that to the profile, and so does this.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from hpcmaf.config.recipe import Recipe
from hpcmaf.debate.methods import METHODS
from hpcmaf.jobs.debate import protocol_of
from hpcmaf.run.plan import Plan, Stage, TaskKey

# Changes when the program comes to do something else with the same recipe.
VERSION = 4


def task_keys(plan: Plan) -> Mapping[TaskKey, str]:
    """Key of every task whose outputs may serve another run, by stage id and task.

    Scores are left out: they name their method, and cost next to nothing.
    """
    return _Keys(plan).all()


class _Keys:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.recipe = Recipe.model_validate(plan.recipe)
        self.method = METHODS[self.recipe.method]
        self.found: dict[TaskKey, str] = {}

    def all(self) -> dict[TaskKey, str]:
        makers = {"debate": self.debate, "eval": self.debate, "merge": self.merge, "finetune": self.finetune}
        for stage in self.plan.stages:  # each behind those it reads
            for task in stage.tasks if stage.kind in makers else ():
                self.found[stage.id, task] = _hash(stage, task, makers[stage.kind](stage, task))
        return self.found

    def base(self) -> dict[str, Any]:
        return {"fingerprint": self.plan.base, "model": self.recipe.model.model_dump(exclude={"path"})}

    def debate(self, stage: Stage, task: str) -> Any:
        recipe, method, evaluating = self.recipe, self.method, stage.spec.evaluates
        shape = (method.inference_shape if evaluating else method.rollout_shape)(
            recipe.debate.agents, recipe.debate.rounds
        )
        debated = recipe.evaluation if evaluating else recipe.task
        protocol = protocol_of(recipe, method, debated, shape.rounds, stage.iteration)
        settings = asdict(replace(protocol, prompts=None))
        settings["prompts"] = [debated.name, debated.model_dump()["prompts"]]
        models = self.models(stage.iteration if evaluating else stage.iteration - 1)
        society = asdict(method.society(shape.agents, models, evaluating=evaluating))
        return {
            "base": self.base(),
            "problems": self.plan.problems[stage.spec.split],
            "shards": len(stage.tasks),
            "hints": method.reads_gold and not evaluating,
            "protocol": settings,
            "vote": recipe.debate.vote,
            "society": {role: [models.get(name) for name in names] for role, names in society.items()},
            # An adapter's outputs and a whole model's differ in their last digits.
            "tuning": recipe.training.tuning if models else None,
        }

    def models(self, iteration: int) -> dict[str, str]:
        shape = self.recipe.debate
        names = self.method.trained_agents(shape.agents, shape.rounds) if iteration else []
        return {name: self.found[f"it{iteration:02d}/finetune", name] for name in names}

    def merge(self, stage: Stage, task: str) -> Any:
        debates = next(s for s in self.plan.stages if s.iteration == stage.iteration and s.kind == "debate")
        return {
            "debates": [self.found[debates.id, shard] for shard in debates.tasks],
            "data": self.method.data,
            "selection": self.recipe.selection.model_dump(),
            "loss_on": self.recipe.training.loss_on,
            "seed": self.recipe.seed,
        }

    def finetune(self, stage: Stage, task: str) -> Any:
        previous = self.models(stage.iteration - 1) if self.recipe.training.start_from == "previous" else {}
        return {
            "base": self.base(),
            "data": self.found[f"it{stage.iteration:02d}/merge", "all"],
            "training": self.recipe.training.model_dump(),
            "seed": self.recipe.seed,
            "start": previous.get(task),
        }


def _hash(stage: Stage, task: str, value: Any) -> str:
    text = json.dumps([VERSION, stage.id, task, value], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
