"""What all tests of studies use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcmaf.files import publish
from hpcmaf.jobs import debate, finetune
from hpcmaf.launch.local import Local
from hpcmaf.training.config import FinetuneReport
from tests.jobs.playing import Player, reply
from tests.study.studies import Job


def _finetune(job: Any, logs: Path, progress: Any, **_: Any) -> FinetuneReport:
    Path(job.output).mkdir(parents=True, exist_ok=True)
    Path(job.output, "model").write_text(Path(job.dataset).read_text())
    return FinetuneReport(3, 0, 40, 20, 1, 0.5, (0.5,), 2.0, 1.0, 1000, 0.0)


@pytest.fixture(autouse=True)
def _played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "sync", lambda path: None)
    monkeypatch.setattr(debate, "make_engine", lambda *_: Player(reply))
    monkeypatch.setattr(finetune, "run_finetune", _finetune)
    monkeypatch.setattr(Local, "_submit_job", lambda *job: Job(*job))
    Job.active.clear()
    Job.together = Job.on_one_gpu = 0
