"""What two runs of a study have in common, and taking over what another has made.

Tasks with the same key have the same outputs. A key covers what a task reads, back to the base and the problems, and
how it works on it; the method's name is not part of it. Where a run computes is not, either: the plan leaves that to
the profile, and so does this.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from hpcmaf.config.recipe import Recipe
from hpcmaf.debate.methods import METHODS
from hpcmaf.errors import DataError, RunBusyError
from hpcmaf.files.publish import atomic_path, file_sha256, write_json
from hpcmaf.jobs.debate import protocol_of
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage, TaskKey
from hpcmaf.study.plan import StudyRun

# Changes when the program comes to do something else with the same recipe.
VERSION = 4


class Borrowed(NamedTuple):
    """A task that another run does, or has done."""

    stage: Stage
    task: str
    owner: StudyRun


def shared_tasks(mine: StudyRun, earlier: Sequence[StudyRun]) -> list[Borrowed]:
    """Tasks that the first of some earlier runs does as well, in the order of the plan."""
    owners = {key: other for other in reversed(earlier) for key in other.keys.values()}
    tasks = ((stage, task, mine.keys.get((stage.id, task))) for stage in mine.plan.stages for task in stage.tasks)
    return [Borrowed(stage, task, owners[key]) for stage, task, key in tasks if key in owners]


def adopt(borrowed: Borrowed, run: RunDir) -> bool:
    """Give a run another's outputs of a task, linked or copied, with a marker that says whose they are.

    Returns
    -------
    bool
        Whether the run has them now; the owner may not be done, or may have lost them since.

    Raises
    ------
    DataError
        A file of the owner is damaged.
    """
    stage, task, source = borrowed.stage, borrowed.task, borrowed.owner.run
    if run.done(stage, task):
        return True
    if not source.done(stage, task) or source.missing(stage, task):
        return False
    try:
        with run.claim(stage, task):
            marker = source.read_marker(stage, task)
            for name, digest in marker["outputs"].items():
                _take(source.root / name, run.root / name, digest)
            # Adopted at second hand, it still names who has computed it.
            write_json(run.marker(stage, task), {"adopted": {"run": source.root.name}} | marker)
    except RunBusyError:
        return False  # it is being computed here; so be it
    return True


def _take(source: Path, target: Path, digest: str) -> None:
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, temporary)
        if file_sha256(temporary) != digest:
            raise DataError(f"{source}: damaged (its marker has another sha256); delete it and run the study again")


class Keys:
    """Key of every task whose outputs may serve another run (``found``), by stage id and task.

    Scores are left out: they name their method, and cost next to nothing.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.recipe = Recipe.model_validate(plan.recipe)
        self.method = METHODS[self.recipe.method]
        self.found: dict[TaskKey, str] = {}
        makers = {"debate": self.debate, "eval": self.debate, "merge": self.merge, "finetune": self.finetune}
        for stage in plan.stages:  # each behind those it reads
            for task in stage.tasks if stage.kind in makers else ():
                value = [VERSION, stage.id, task, makers[stage.kind](stage, task)]
                text = json.dumps(value, sort_keys=True, default=str)
                self.found[stage.id, task] = hashlib.sha256(text.encode()).hexdigest()

    def base(self) -> dict[str, Any]:
        own = {key: settings.model_dump() for key, settings in self.recipe.agents.items()}
        model = self.recipe.model.model_dump(exclude={"path"})
        return {"fingerprint": self.plan.base, "model": model} | ({"agents": own} if own else {})

    def debate(self, stage: Stage, task: str) -> Any:
        recipe, method, evaluating = self.recipe, self.method, stage.spec.evaluates
        debated = recipe.source(evaluating=evaluating)
        protocol = protocol_of(recipe, stage.iteration, evaluating=evaluating)
        settings = asdict(replace(protocol, prompts=None, own={}))
        del settings["own"]  # the base's entry has the agents' settings
        settings["prompts"] = [debated.name, debated.model_dump()["prompts"]]
        models = self.models(stage.iteration if evaluating else stage.iteration - 1)
        society = method.society(recipe.shape(evaluating=evaluating).agents, models, evaluating=evaluating)
        speakers = {"generators": society.generators, "critics": society.critics}
        return {
            "base": self.base(),
            "problems": self.plan.problems[stage.spec.split],
            "shards": len(stage.tasks),
            "hints": method.reads_gold and not evaluating,
            "protocol": settings,
            "vote": recipe.debate.vote,
            "society": {role: [models.get(name) for name in names] for role, names in speakers.items()},
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
            "thinking": self.recipe.training.thinking,
            "seed": self.recipe.seed,
        }

    def finetune(self, stage: Stage, task: str) -> Any:
        training = self.recipe.of(task).training
        previous = self.models(stage.iteration - 1) if training.start_from == "previous" else {}
        return {
            "base": self.base(),
            "data": self.found[f"it{stage.iteration:02d}/merge", "all"],
            "training": training.model_dump(),
            "seed": self.recipe.seed,
            "start": previous.get(task),
        }
