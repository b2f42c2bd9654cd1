"""A whole iteration on a real pretrained chat model: template, control tokens, ends of turns, padding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpcmaf.run.directory import RunDir
from hpcmaf.store import Store
from tests.environments import smollm2

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_one_iteration_on_a_pretrained_model(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(smollm2()), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    run = RunDir(tmp_path / "run")
    overrides = ("task.train=8", "task.eval=1", "debate.agents=2", "sampling.max_new_tokens=24", "training.epochs=1")
    words = [sys.executable, "-m", "hpcmaf", "submit", "--recipe", "sums/smollm2", "--iters", "1", "--run", str(run.root)]
    done = subprocess.run(
        [*words, *(word for override in overrides for word in ("--set", override))],
        capture_output=True, text=True, env=environment, timeout=900, check=False,
    )
    assert done.returncode == 0, done.stderr
    with Store(run.store(1, "debate")) as debates:
        turns = [turn for one in debates.transcripts() for round in one.answers for turn in round]
        opening = next(debates.transcripts()).opening(1, 0)
    assert len(turns) == 8 * 2 * 2 and any(turn.answer is not None for turn in turns)
    # What ends a turn is no part of it, and a response that said all is known to have.
    assert not any("<|im" in turn.text for turn in turns)
    assert {turn.finish_reason for turn in turns} <= {"stop", "length"} and any(
        turn.finish_reason == "stop" for turn in turns
    )
    # Four worked examples stand before every first answer, and behind them each agent's data.
    assert len(opening) == 8
    lines = [json.loads(line) for path in run.data(1).glob("generator-*.jsonl") for line in path.open()]
    assert lines and all(line["messages"][:8] == list(opening) and line["opening"] == 8 for line in lines)
    assert (run.agent(1, "generator-0") / "adapter_model.safetensors").is_file()
