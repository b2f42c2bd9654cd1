"""A whole iteration of a model that thinks before it answers, under a template such as Qwen3's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hpcmaf.run.directory import RunDir
from hpcmaf.store import Store
from tests.tiny_models import thinking_model

pytestmark = pytest.mark.slow

RECIPE = """
model: {path: BASE, dtype: float32}
task: {name: arithmetic, train: 12, eval: 2}
sampling: {max_new_tokens: 7}
training: {epochs: 1, batch_size: 4}
iterations: 1
"""


def hpcmaf(*words: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hpcmaf", *map(str, words)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr


def test_nobody_reads_what_another_agent_thought(tmp_path: Path) -> None:
    recipe, run = tmp_path / "thinks.yaml", RunDir(tmp_path / "run")
    base = thinking_model(tmp_path / "base", "123", context=4096)
    recipe.write_text(RECIPE.replace("BASE", str(base)))
    hpcmaf("submit", "--recipe", recipe, "--run", run.root)
    for iteration, kind in ((1, "debate"), (0, "eval"), (1, "eval")):
        with Store(run.store(iteration, kind)) as debates:
            found = list(debates.transcripts())
        said = [turn for one in found for turns in (*one.answers, *one.summaries) for turn in turns]
        assert said and all(turn.text.startswith("<think>~") for turn in said)
        assert not any("~" in turn.prompt or "think>" in turn.prompt for turn in said)
        # A thought that the limit cut off is no answer, whatever it says.
        assert {turn.answer is None for turn in said if "</think>" not in turn.text} <= {True}
    with Store(run.store(1, "debate")) as debates:
        answers = [turn for one in debates.transcripts() for turns in one.answers for turn in turns]
    assert any(turn.cut_off for turn in answers) and any(turn.answer in {"1", "2", "3"} for turn in answers)

    stripped = tmp_path / "stripped"
    hpcmaf("select", run.store(1, "debate"), stripped, *"--w 0.5 --seed 0 --mix cap --thinking strip".split())
    for folder, thought in ((run.data(1), True), (stripped, False)):
        lines = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.open()]
        assert lines
        for line in lines:
            *before, last = line["messages"]
            assert "</think>" in last["content"] if thought else "~" not in last["content"] and last["content"]
            assert not any("~" in message["content"] for message in before)
