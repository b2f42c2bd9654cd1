"""Small studies, and a machine of three slots whose jobs this process does itself, with played engines and finetuning."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hpcmaf.config.profile import Profile, load_profile
from hpcmaf.jobs import task as entry
from hpcmaf.launch.local import Local
from hpcmaf.run.plan import Stage
from hpcmaf.study.drive import drive_here, plan_study, savings
from hpcmaf.study.plan import Study, load_study

PROFILE = load_profile("local", ["generation.problems_per_shard=6", "jobs=3"])
METHODS = "maft, debate, maft-no-critic, no-interaction, single-agent-ft, single-agent-ft-no-debate"
SIZE = ("debate.agents=2", "task.train=12", "task.eval=6")


def study_file(folder: Path, methods: str, **keys: Any) -> Path:
    path = folder / "few.yaml"
    lines = {"tasks": "[arithmetic]", "models": "[micro]", "methods": f"[{methods}]", "iterations": 1} | keys
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return path


def lay_out(folder: Path, methods: str, *overrides: str, **keys: Any) -> Study:
    path = study_file(folder, methods, **keys)
    return load_study(str(path), overrides=(*SIZE, *overrides), root=folder / "runs")


class Job:
    """Does its tasks when it is looked at for the third time, or later in other slots than the first."""

    job_id, paths = "1", SimpleNamespace(stderr="job.err")
    # Of those under way: slot to run and its GPUs.
    active: dict[int, tuple[str, list[str]]] = {}  # noqa: RUF012
    # The most runs that had jobs at once, and that had jobs on one GPU at once.
    together = on_one_gpu = 0

    def __init__(self, of: Local, stage: Stage, tasks: Sequence[str], name: str, slot: int) -> None:
        assert slot not in Job.active, "a slot is for one job"
        Job.active[slot] = of.run.root.name, of.gpus_of(stage, slot)
        Job.together = max(Job.together, len({name for name, _ in Job.active.values()}))
        Job.on_one_gpu = max(Job.on_one_gpu, len({name for name, gpus in Job.active.values() if gpus}))
        self.what = (of.run, stage, list(tasks), of.plan.identity, {"submission": name, "log": "job.err"})
        self.slot, self.looks = slot, 0

    def done(self) -> bool:
        self.looks += 1
        if self.looks == 3 + self.slot:
            del Job.active[self.slot]
            run, stage, tasks, identity, facts = self.what
            entry.run_tasks(run, stage, tasks, identity, facts=facts)  # a failed attempt says so
        return self.looks >= 3 + self.slot

    def cancel(self, check: bool = True) -> None:
        self.looks = 3 + self.slot
        Job.active.pop(self.slot, None)


def drive(study: Study, profile: Profile = PROFILE) -> str:
    text = io.StringIO()
    drive_here(study, profile, lambda line: print(line, file=text), text, poll_seconds=0.0)
    return text.getvalue()


def computed(study: Study) -> list[tuple[str, str, str]]:
    """Attempts at tasks: the run's label, stage and task."""
    found = [(one, path) for one in study.runs for path in sorted(one.run.root.glob("it*/attempts/*/0*"))]
    names = [(one.label, path.parts[-4], *path.parts[-2].split(".")) for one, path in found]
    return [(label, f"{iteration}/{kind}", task) for label, iteration, kind, task in names]


def to_compute(study: Study) -> int:
    return sum(tasks - shared for tasks, shared, _ in savings(plan_study(study, PROFILE)))
