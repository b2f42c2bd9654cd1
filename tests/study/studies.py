"""Small studies, and hands that run their tasks in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcmaf.config.profile import load_profile
from hpcmaf.jobs import debate as debate_stage
from hpcmaf.jobs import finetune as finetune_stage
from hpcmaf.study import Study, StudyRun, load_study
from hpcmaf.study.drive import drive_study
from hpcmaf.training.config import FinetuneReport
from tests.jobs.playing import Player, reply, run_task

PROFILE = load_profile("local", ["generation.problems_per_shard=6"])
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


class Hands:
    """Runs tasks at once and in this process, with played engines and finetuning; counts them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.worked: list[tuple[str, str, str]] = []
        self.requests = 0

        def engine(context: Any, served: Any, journal: Any, watch: Any) -> Player:
            def say(request: Any) -> str:
                self.requests += 1
                return reply(request)

            return Player(say)

        def finetune(job: Any, logs: Path, progress: Any, **_: Any) -> FinetuneReport:
            Path(job.output).mkdir(parents=True, exist_ok=True)
            Path(job.output, "model").write_text(Path(job.dataset).read_text())
            return FinetuneReport(3, 0, 40, 20, 1, 0.5, (0.5,), 2.0, 1.0, 1000, 0.0)

        patch.setattr(debate_stage, "make_engine", engine)
        patch.setattr(finetune_stage, "run_finetune", finetune)

    def start(self, one: StudyRun) -> None:
        for stage in one.plan.stages:
            for task in stage.tasks:
                if not one.run.done(stage, task):
                    self.worked.append((one.label, stage.id, task))
                    run_task(one.run, one.plan, stage, task)

    def drive(self, study: Study) -> list[str]:
        said: list[str] = []
        drive_study(study, PROFILE, said.append, self.start, lambda planned: False)
        return said
