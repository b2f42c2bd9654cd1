"""A whole iteration of a society whose answers are programs: votes by outputs, training, gold by tests, report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hpcmaf.debate.consensus import consensus
from hpcmaf.run.directory import RunDir
from hpcmaf.store import Store
from tests.tasks.test_sandbox import KIND
from tests.tiny_models import answering_model

pytestmark = pytest.mark.slow

BODIES = {"return x * 2": "doubles", "return x + x": "doubles", "return x + 1": "adds", "return y": "fails"}
PROGRAMS = [f"```python\ndef f(x):\n    {body}\n```" for body in BODIES]
RECIPE = """
model: {path: BASE, dtype: float32}
task: {TASK, sandbox: SANDBOX, train: 10, eval: 6}
method: METHOD
sampling: {max_new_tokens: 4}
training: {epochs: 1, batch_size: 4}
iterations: 1
"""


def hpcmaf(*words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hpcmaf", *map(str, words)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("method", "task"),
    [("maft", "name: mbpp, source: SOURCE"), ("star", "name: jsonl, source: SOURCE, answer: code")],
)
def test_programs_debate_vote_and_are_learned(tmp_path: Path, method: str, task: str) -> None:
    base = answering_model(tmp_path / "base", PROGRAMS, context=8192)
    rows = []
    for number in range(40):
        text, tests = (
            f"Double a number, in way {number}.",
            [f"assert f({number + 1}) == {2 * number + 2}", "assert f(7) == 14"],
        )
        asked = {"question": f"{text} Such as f({number + 1}).", "answer": "\n".join(tests), "id": f"p{number}"}
        row = {"task_id": f"t{number}", "text": text, "code": "def f(x): return 2 * x", "test_list": tests}
        rows.append(row if "mbpp" in task else asked)
    (tmp_path / "source.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = task.replace("SOURCE", str(tmp_path / "source.jsonl"))
    recipe, run = tmp_path / "code.yaml", RunDir(tmp_path / "run")
    recipe.write_text(
        RECIPE.replace("BASE", str(base)).replace("TASK", task).replace("METHOD", method).replace("SANDBOX", KIND)
    )
    hpcmaf("submit", "--recipe", recipe, "--run", run.root)
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
    assert accuracy["vote@M" if method == "maft" else "answer"]["value"] == pytest.approx(sum(right) / len(right))
    samples = [json.loads(line) for path in run.data(1).glob("*.jsonl") for line in path.open()]
    assert samples
    for sample in samples:
        last = sample["messages"][-1]["content"]
        assert "return y" not in last and (method == "maft" or "x + 1" not in last)
        assert "assert" not in json.dumps(sample["messages"]) or method == "star"
    hpcmaf("aggregate", run.root, "--out", tmp_path / "report")
    if KIND == "limits":  # which grade is not told of
        return
    line = json.dumps({"gold": "assert f(2) == 4", "answer": "def f(x): return 2 * x", "question": "f(1)"})
    (tmp_path / "lines.jsonl").write_text(line + "\n" + line.replace("2 * x", "x"))
    graded = hpcmaf("grade", "--grader", "code", "--jsonl", tmp_path / "lines.jsonl").splitlines()
    assert [json.loads(one)["equivalent"] for one in graded] == [True, False]
