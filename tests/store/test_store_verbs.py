"""Debates of the released code come in whole, or not at all; looking into a store, by figures and by debate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hpcmaf.cli.import_ import command
from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.errors import DataError, StoreError
from hpcmaf.store.importing import import_debates
from hpcmaf.store.reader import Store
from hpcmaf.store.schema import StoreInfo
from hpcmaf.store.verify import verify
from hpcmaf.store.writer import write_store
from hpcmaf.tasks.problems import Problem
from tests.commands import invoke


def chat(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(texts)]


def entry(agents: int = 3, rounds: int = 2, solution: Any = "so #### 4") -> list:
    said = [
        [f"ask {n}.{k}" if k % 2 == 0 else f"it is \\boxed{{{k + n}}}" for k in range(2 * rounds)]
        for n in range(agents)
    ]
    return [[chat(*texts) for texts in said], solution]


def write(folder: Path, content: Any) -> Path:
    path = folder / "debates.json"
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_debates_come_in_verbatim(tmp_path: Path) -> None:
    content = {"What is 2+2?": entry(solution="2+2=4\n#### 4"), "Odd \ud800\0?": entry(solution="none given")}
    content["Odd \ud800\0?"][0][1][3]["content"] = "\ud83d \0 no idea"
    target = tmp_path / "out.h5"
    result = CliRunner().invoke(command, [str(write(tmp_path, content)), str(target), "--task", "gsm8k"])
    assert (result.exit_code, result.output) == (0, f"{target}: 2 debates\n"), result
    assert verify(target) == []
    with Store(target) as store:
        assert store.info == StoreInfo("gsm8k", "number", 3, 2, 0, "train", False)
        one, two = store.transcripts(gold=True)
    assert (one.problem.question, one.problem.gold) == ("What is 2+2?", "4")
    assert (two.problem.question, two.problem.gold) == ("Odd \ud800\0?", "none given")
    assert one.problem.id.startswith("gsm8k-") and one.problem.id != two.problem.id
    assert one.summaries == ()
    assert [[turn.answer for turn in turns] for turns in one.answers] == [["1", "2", "3"], ["3", "4", "5"]]
    for n in range(3):
        assert one.conversation(n, 2) == content["What is 2+2?"][0][n]
    turn = two.answers[1][1]
    assert (turn.text, turn.answer) == ("\ud83d \0 no idea", None)
    assert (turn.prompt_tokens, turn.completion_tokens, turn.finish_reason) == (0, 0, "unknown")


@pytest.mark.parametrize(
    ("task", "form", "solution", "gold"),
    [
        ("arithmetic", "number", -12, "-12"),
        ("arithmetic", "number", 3.0, "3"),
        ("gsm8k", "number", "1 #### 2 and #### 1,234 ", "1,234"),
        ("math", "boxed", r"first \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("math", "boxed", r"\boxed{never closed", r"\boxed{never closed"),
        ("mmlu", "letter", " B\n", "B"),
        ("jsonl", "boxed", r"\boxed{3} #### 4", r"\boxed{3} #### 4"),
    ],
)
def test_gold_by_task(tmp_path: Path, task: str, form: str, solution: Any, gold: str) -> None:
    both = {"Let A = 1": entry(solution=solution), "let  a = 1": entry()}
    import_debates(write(tmp_path, both), tmp_path / "a.h5", task)
    with Store(tmp_path / "a.h5") as store:
        assert (store.info.task, store.info.answer_form) == (task, form)
        first, second = store.transcripts(gold=True)
    assert first.problem.gold == gold
    assert second.problem.id == f"{first.problem.id}-2", "questions that differ in case alone are two"


def altered(change) -> dict:
    """Two good debates, the second one changed."""
    content = {"first": entry(), "second": entry()}
    changed = change(content["second"])
    if changed is not None:
        content["second"] = changed
    return content


GOOD = json.dumps({"first": entry(), "second": entry()})
REFUSED = {
    "torn": (GOOD[:-40], "Unterminated string"),
    "nested beyond reason": ("[" * 200_000, "recursion"),
    "not UTF-8": (b'{"\xff": 1}', "can't decode"),
    "nothing in it": ({}, "not an object of question: .* an empty one"),
    "entry is text": (altered(lambda e: "x"), "question 1: Input should be a valid tuple"),
    "more than solution": (altered(lambda e: [*e, 1]), "question 1: Tuple should have at most 2 items"),
    "solution NaN": (altered(lambda e: [e[0], float("nan")]), "question 1: 1"),
    "no agents": (altered(lambda e: [[], "4"]), "question 1: 0: List should have at least 1"),
    "message is text": (altered(lambda e: e[0][1].__setitem__(1, "hi")), "question 1: 0.1.1: Input should be a valid dict"),
    "role unknown": (altered(lambda e: e[0][0][1].update(role="tool")), "0.0: .* roles are not user"),
    "system": (altered(lambda e: e[0][0].insert(0, {"role": "system", "content": "x"})), "roles are not user"),
    "unanswered": (altered(lambda e: e[0][0].pop() and None), "0.0: .* with an answer at the end"),
    "an agent less": (altered(lambda e: e[0].pop() and None), "question 1: other agents or rounds"),
    "a round less": (altered(lambda e: e[0].__setitem__(1, e[0][1][:2])), "question 1: other agents or rounds"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_whole_is_refused_whole(tmp_path: Path, case: str) -> None:
    content, message = REFUSED[case]
    path, target = write(tmp_path, content), tmp_path / "out" / "a.h5"
    with pytest.raises(DataError, match=message) as caught:
        import_debates(path, target, "gsm8k")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert not target.parent.exists()


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            import_debates(path, tmp_path / "a.h5", "gsm8k")
    result = CliRunner().invoke(command, ["x", "y", "--task", "chess"])
    assert result.exit_code == 2 and "chess" in result.output


def test_what_a_store_holds(store: Path) -> None:
    text = invoke("inspect", store)
    assert "3 agents x 2 rounds, with summaries" in text and "such as      problem-00000, problem-00001" in text
    facts = json.loads(invoke("inspect", store, "--json"))
    assert (facts["problems"], facts["agents"], facts["rounds"], len(facts["ids"])) == (40, 3, 2, 40)


def test_one_debate_in_the_order_it_was_held(store: Path) -> None:
    text = invoke("inspect", store, "--problem", "problem-00003")
    places = [
        text.index(part)
        for part in (
            "gold: gold-3",
            "round 1, generator-0: no answer",
            "round 1, generator-2: answer 1",
            "round 2, summary for critic-0",
            "round 2, critic-0: answer 0",
            "round 2, critic-2: answer 1",
        )
    ]
    assert places == sorted(places)
    assert "ask 3.2.1" in text
    with pytest.raises(StoreError, match="no problem 'x'"):
        invoke("inspect", store, "--problem", "x")


def test_odd_text_is_valid_json_and_does_not_steer_the_terminal(tmp_path: Path) -> None:
    """What a model may say: escape codes, a lone surrogate, markup that rich would obey."""
    turn = Utterance("answer", 1, 0, "[bold]p[/bold]", "\x1b[31mred\ud800\0[/x]\nnext \u00e9", "\ud800")
    path, odd = tmp_path / "odd.h5", Transcript(Problem("i\ud800", "q"), ((turn,),))
    write_store(path, StoreInfo("math", "boxed", 1, 1, 0, "train", False), [odd])
    output = invoke("inspect", path, "--problem", "i\ud800", "--json")
    found = json.loads(output)
    assert output.isascii() and found["summaries"] == []
    assert found["answers"][0][0]["text"] == turn.text
    shown = invoke("inspect", path, "--problem", "i\ud800")
    assert "\\x1b[31mred\\ud800\\x00[/x]\nnext \u00e9" in shown
    assert "\x1b" not in shown and "[bold]p[/bold]" in shown
