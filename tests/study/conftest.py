"""What all tests of studies use."""

from __future__ import annotations

import pytest

from hpcmaf.files import publish
from hpcmaf.jobs import debate, finetune
from hpcmaf.launch.local import Local
from tests.jobs.playing import Player, pretend, reply
from tests.study.studies import Job


@pytest.fixture(autouse=True)
def _played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "sync", lambda path: None)
    monkeypatch.setattr(debate, "make_engine", lambda *_: Player(reply))
    monkeypatch.setattr(finetune, "run_finetune", pretend)
    monkeypatch.setattr(Local, "_submit_job", lambda *job: Job(*job))
    Job.active.clear()
    Job.together = Job.on_one_gpu = 0
