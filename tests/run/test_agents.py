"""Societies whose agents have settings of their own: bases, tuning, sampling, prompts."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpcmaf.run.directory import RunDir
from hpcmaf.store import Store, verify
from tests.run.test_local_run import kill_everything
from tests.tiny_models import answering_model

RECIPE = """
model: {path: LLAMA, dtype: float32}
task: {name: arithmetic, train: 12, eval: 4}
debate: {agents: 3, rounds: 2}
sampling: {max_new_tokens: 6}
training: {epochs: 1, batch_size: 4}
agents:
  "2": {model: {path: QWEN}, tuning: full, sampling: {max_new_tokens: 3}}
  critic-1: {prompts: {system: Be brief.}}
  summarizer: {model: {path: QWEN}}
iterations: 1
"""


def hpcmaf(*words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hpcmaf", *map(str, words)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def recipe_of(folder: Path) -> Path:
    """A recipe of two architectures of different vocabularies, each of which says digits of its own."""
    llama = answering_model(folder / "llama", "123", context=4096)
    qwen = answering_model(folder / "qwen", ["3", "4", "55"], context=4096, kind="qwen2")
    recipe = folder / "mixed.yaml"
    recipe.write_text(RECIPE.replace("LLAMA", str(llama)).replace("QWEN", str(qwen)))
    return recipe


def contents(run: RunDir) -> dict[str, str]:
    """Digests of what debates, selection and finetuning have published, times aside."""
    found = [*run.root.glob("it*/*.h5"), *run.root.glob("it*/data/*"), *run.root.glob("it*/agents/*/*.safetensors")]
    return {str(path.relative_to(run.root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.slow
def test_two_architectures_in_one_society(tmp_path: Path) -> None:
    recipe, calm, killed = recipe_of(tmp_path), RunDir(tmp_path / "calm"), RunDir(tmp_path / "killed")
    words = ["submit", "--recipe", recipe, "--run", killed.root]
    submitting = subprocess.Popen([sys.executable, "-m", "hpcmaf", *map(str, words)], stderr=subprocess.DEVNULL)
    journal, deadline = killed.journal(killed.shard(1, "debate", 0)), time.monotonic() + 120
    while not (journal.exists() and journal.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert kill_everything(killed)
    submitting.wait()
    hpcmaf(*words)
    hpcmaf("submit", "--recipe", recipe, "--run", calm.root)
    assert contents(killed) == contents(calm) and verify(killed.root) == []
    checkpoints = {path.parent.name for path in calm.root.glob("it01/agents/*/model.safetensors")}
    assert checkpoints == {"generator-2", "critic-2"}
    adapters = {path.parent.name for path in calm.root.glob("it01/agents/*/adapter_model.safetensors")}
    assert adapters == {f"{role}-{n}" for role in ("generator", "critic") for n in range(2)}
    for name in ("generator-2", "critic-2"):
        assert json.loads((calm.agent(1, name) / "config.json").read_text())["model_type"] == "qwen2"

    for iteration, kind in ((1, "debate"), (0, "eval"), (1, "eval")):
        with Store(calm.store(iteration, kind)) as store:
            debates = list(store.transcripts())
        for one in debates:
            assert not {turn.text for turns in one.answers for turn in turns[:2]} & {"4", "55"}
            for turns in (*one.summaries, *([turns[2]] for turns in one.answers)):
                assert {turn.text for turn in turns} <= {"3", "4", "55"}
            assert [len(one.conversation(n, 2)) for n in range(3)] == [4, 5, 4]
