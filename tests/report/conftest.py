"""Run directories made of invented debates, scored by the program itself."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hpcmaf.config.profile import Profile
from hpcmaf.config.recipe import Recipe
from hpcmaf.config.recipe import Selection as Rules
from hpcmaf.debate.methods import METHODS
from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.evaluation.accuracy import pseudo_label_accuracy, score
from hpcmaf.evaluation.significance import mcnemar
from hpcmaf.files.publish import write_json
from hpcmaf.report.groups import Group, group_runs
from hpcmaf.report.records import read_run
from hpcmaf.report.report import Report
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import build_plan
from hpcmaf.selection.select import select
from hpcmaf.selection.sources import counts
from hpcmaf.tasks.problems import Problem

MakeRun = Callable[..., RunDir]
STAGES = ("debate", "finetune", "eval")


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def groups_of(*runs: RunDir) -> list[Group]:
    return group_runs([read_run(run.root) for run in runs])


def report_of(*runs: RunDir, **options: Any) -> Report:
    """What ``aggregate`` puts together, before any of it is written."""
    return Report([read_run(run.root) for run in runs], **options)


def invent(
    problems: int, skills: tuple[float, ...], agents: int, seed: int, name: str = "eval"
) -> Iterator[Transcript]:
    """Debates in which an agent of round m is right with probability ``skills[m - 1]``."""
    draw = random.Random(f"{name} {seed} {skills}")
    for i in range(problems):
        gold = str(i)
        yield Transcript(
            Problem(f"{name}-{i:05d}", f"What is {i}?", gold),
            tuple(
                tuple(Utterance("answer", m, agent, "?", "...", _answer(draw, gold, skill)) for agent in range(agents))
                for m, skill in enumerate(skills, start=1)
            ),
        )


def _answer(draw: random.Random, gold: str, skill: float) -> str | None:
    if draw.random() < skill:
        return gold
    return draw.choice([None, "-1", "-2", "-3"])


def ledger(t: int) -> dict[str, Any]:
    rows = [
        {
            "stage": stage,
            "iteration": t,
            "agent": agent,
            "prompt_tokens": 1000 * (stage != "finetune"),
            "completion_tokens": 200 * (stage != "finetune"),
            "training_tokens": 70 * (stage == "finetune"),
            "wall_seconds": 1.5,
            "gpu_seconds": None,
            "peak_memory_bytes": 2**30 * (1 + n),
            "calls": 10,
        }
        for stage in (STAGES if t else ("eval",))
        for n, agent in enumerate(("generator-0", "critic-0"))
    ]
    return {"schema": "hpcmaf-ledger/1", "rows": rows}


Paired = NamedTuple("Paired", [("b_only", int), ("a_only", int), ("p", float)])


def paired_test(a: dict[str, bool], b: dict[str, bool]) -> Paired:
    """Problems that only one of two got right, and what McNemar's test says of them."""
    assert a.keys() == b.keys()
    b_only, a_only = (sum(one[key] > other[key] for key in a) for one, other in ((b, a), (a, b)))
    return Paired(b_only, a_only, mcnemar(a_only, b_only))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunDir]:
    """``make_run(name, seed=..., upto=..., problems=..., questions=..., **recipe)`` writes a run directory."""

    def make(
        name: str,
        *,
        seed: int = 0,
        upto: int = 2,
        planned: int | None = None,
        problems: int = 40,
        gain: float = 0.12,
        questions: str = "1",
        folder: Path = tmp_path / "runs",
        **recipe: Any,
    ) -> RunDir:
        planned = upto if planned is None else planned
        whole = Recipe.model_validate(
            {"name": "made-up", "model": {"path": "/models/tiny"}, "task": {"name": "arithmetic"}}
            | {"seed": seed, "iterations": planned}
            | recipe
        )
        run, method = RunDir(folder / name), METHODS[whole.method]
        splits = {"train": {"count": 20, "sha256": "0"}, "eval": {"count": problems, "sha256": questions}}
        write_json(run.plan, build_plan(whole, Profile(name="none"), splits, "tiny").to_json())
        for t in range(upto + 1):
            run_seed = {"seed": seed, "iteration": t}
            better = gain * (1 - 0.5**t)
            skills = tuple(min(0.97, 0.45 + 0.15 * m + better) for m in range(whole.debate.rounds))
            shape = method.inference_shape(whole.debate.agents, whole.debate.rounds)
            debates = invent(problems, skills[: shape.rounds], shape.agents, 1000 * seed + t)
            metrics = score(debates, **run_seed, method=whole.method, task=whole.evaluation.name)
            if t and method.trained != "none":
                shape = method.rollout_shape(whole.debate.agents, whole.debate.rounds)
                train = list(invent(20, (0.5, 0.6, 0.7)[: shape.rounds], shape.agents, 1000 * seed + t, "train"))
                metrics["pseudo_labels"] = pseudo_label_accuracy(train, **run_seed)
                chosen = select(train, Rules(w=0.5), **run_seed, data=method.data)
                learned = {name: counts(parts) for name, parts in chosen.files.items()}
                metrics["selection"] = {"health": chosen.health.values(), "datasets": learned}
            write_json(run.metrics(t), metrics)
            write_json(run.ledger(t), ledger(t))
        return run

    return make
