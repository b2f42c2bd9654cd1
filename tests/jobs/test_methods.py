"""Methods through the real stages with a played engine and finetuning: what gold, other tasks and silence do to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import load_profile
from hpcmaf.debate.methods import METHODS
from hpcmaf.engines import Request
from hpcmaf.errors import ConfigError, DataError
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.run.directory import RunDir
from tests.jobs.playing import MUTE, play, reply

SMALL = ("debate.rounds=2", "task.train=24", "task.eval=6", "task.prompts=default")


def said(request: Request) -> str:
    """What a chat model would write."""
    return reply(request).replace("=", "Answer: ").replace("so ", "Answer: ")


def poisoned(folder: Path, gold: str | None) -> Path:
    """Training problems with this gold answer; evaluation problems keep theirs."""
    folder.mkdir()
    rows = [{"id": f"t{i}", "question": f"{i}+1"} | ({} if gold is None else {"answer": gold}) for i in range(8)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    test = [{"id": f"e{i}", "question": f"{i}+2*{i}", "answer": "1"} for i in range(2)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
    return folder


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.trained != "none"])
def test_gold_is_read_by_star_and_evaluation_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Gold that some answers match, or none, makes the same requests and training sets in any method but STaR."""
    outcomes: list[Any] = []
    for gold in ("1", "poison", None) if name == "star" else ("1", None):
        source = poisoned(tmp_path / f"{gold}", gold)
        data = ("task.name=jsonl", f"task.source={source}", "task.train=8", "task.eval=2", "debate.agents=2")
        if (name, gold) == ("star", None):
            with pytest.raises(DataError, match="no problem has a gold answer"):
                play(tmp_path / "run", monkeypatch, *SMALL, *data, f"method={name}", say=said)
            continue
        done = play(tmp_path / f"run {gold}", monkeypatch, *SMALL, *data, f"method={name}", say=said, iterations=1)
        asked = {s: sorted((r.key, str(r.messages), r.seed) for r in rs) for s, rs in done.requests.items()}
        outcomes.append((asked, {p.name: p.read_bytes() for p in done.run.data(1).iterdir()}))
    assert any(content for file, content in outcomes[0][1].items() if file.endswith(".jsonl"))
    if name == "star":
        assert len(outcomes) == 2 and outcomes[0] != outcomes[1]
    else:
        assert len(outcomes) == 2 and outcomes[0] == outcomes[1]


@pytest.mark.parametrize("name", ["unique-id", "cooperative", "cooperative-ft"])
def test_the_micro_models_prompts_have_no_words_for_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="compact prompts have no words"):
        prepare_run(RunDir(tmp_path / "run"), load_recipe(overrides=[f"method={name}"]), load_profile())
    assert not (tmp_path / "run").exists()


def test_nobody_can_answer_and_nothing_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty training sets, in every method that trains."""
    for name in ("maft", "star", "majority-ft", "union-data"):
        done = play(tmp_path / name, monkeypatch, *SMALL, "debate.agents=2", f"method={name}", say=lambda _: MUTE)
        counts = json.loads((done.run.data(2) / "selection.json").read_text())["datasets"]
        assert {count["kept"] for count in counts.values()} == {0}


def test_transfer_trains_on_one_task_and_is_evaluated_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = poisoned(tmp_path / "other", "1")
    other = f"{{name: jsonl, source: '{source}'}}"
    done = play(tmp_path / "run", monkeypatch, *SMALL, "task.eval=2", f"evaluate_on={other}", say=said, iterations=1)
    train, held = (done.run.read_problems(split, done.plan) for split in ("train", "eval"))
    assert all(problem.id.startswith("arithmetic-") for problem in train) and len(train) == 24
    assert {problem.id for problem in held} == {"e0", "e1"}
    metrics = json.loads(done.run.metrics(1).read_text())
    assert (metrics["task"], metrics["trained_on"]) == ("jsonl", "arithmetic")
    assert "the expression below" not in done.requests["it01/eval"][0].messages[0]["content"]
    assert "the expression below" in done.requests["it01/debate"][0].messages[0]["content"]
