"""Answers that are programs: official layouts, what is read, what votes together, what is right."""

from __future__ import annotations

import gzip
import json

import pytest

from hpcmaf.debate.consensus import consensus
from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.tasks import get_task
from hpcmaf.tasks.code import calls_of
from hpcmaf.tasks.grader import Grader
from hpcmaf.tasks.problems import Problem
from tests.tasks.test_sandbox import KIND

SCALE = '''from typing import List
import math

def half(number):
    return number // 2

def scale(numbers: List[int], factor: int) -> List[int]:
    """ Multiply each number; scale(numbers, 1) changes nothing.
    >>> scale([1, 2], 3)
    [3, 6]
    """
'''
CHECK = """def check(candidate):
    assert candidate([4], half(9)) == [16]
    assert math.fabs(candidate([-7], 1)[0]) == 7
"""
HUMANEVAL = {
    "task_id": "HumanEval/7",
    "prompt": SCALE,
    "entry_point": "scale",
    "canonical_solution": "x",
    "test": CHECK,
}
MBPP = {
    "task_id": 11,
    "text": "Write a function to join two words.",
    "code": "import math\nimport numpy\ndef helper(a):\n    return a\ndef join(a, b):\n    return a + '-' + b\n",
    "test_list": ["assert join('ab', 'c') == 'ab-c'", "assert math.isclose(len(join('x', 'yz')), 4)"],
    "test_setup_code": "",
}
ROOTED = {
    "task_id": 601,
    "prompt": "Write a function to find the depth of a tree.",
    "code": "class Node: pass\ndef depth(node): return 1",
    "test_imports": ["import math"],
    "test_setup_code": "root = Node(1)\nroot.left = Node(2)",
    "test_list": ["assert depth(root) == int(math.sqrt(4))", "assert depth(Node(3)) == 1"],
}
TREE = """class Node:
    def __init__(self, value): self.value, self.left = value, None
def depth(node): return {} if node.left else 1"""
PAIR = """from __future__ import annotations
from dataclasses import dataclass
@dataclass
class Pair:
    a: str
    b: str
def join(a, b): return '-'.join(vars(Pair(a, b)).values())"""


@pytest.fixture(scope="module")
def scale(tmp_path_factory) -> Problem:
    """The problem of HumanEval's form, as prepared from its compressed file."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "HumanEval.jsonl.gz").write_bytes(gzip.compress(json.dumps(HUMANEVAL).encode()))
    get_task("humaneval").prepare(str(folder / "HumanEval.jsonl.gz"), folder / "out")
    return get_task("humaneval").splits(folder / "out", 0, 1, 0).eval[0]


@pytest.mark.parametrize(
    ("source", "question"), [(MBPP, "join('ab', 'c')\njoin('x', 'yz')"), (ROOTED, "depth(root)\ndepth(Node(3))")]
)
def test_a_question_shows_calls_and_never_what_they_return(tmp_path, source, question) -> None:
    more = [source | {"task_id": number} for number in (3, 20, 550, 700)]
    texts = [one | {"text" if "text" in one else "prompt": f"{one['task_id']}?"} for one in more]
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(one) + "\n" for one in texts))
    report = get_task("mbpp").prepare(str(tmp_path / "mbpp.jsonl"), tmp_path / "out")
    assert (report["train"]["problems"], report["test"]["problems"]) == (1, 1)
    splits = get_task("mbpp").splits(tmp_path / "out", 1, 1, 0)
    assert [one.id for one in (*splits.train, *splits.eval)] == ["mbpp-700", "mbpp-20"]
    found = splits.eval[0]
    assert found.question.endswith(question) and not any(
        mark in found.question for mark in ("assert", "==", "ab-c", "sqrt")
    )
    assert found.gold == "\n".join(source["test_list"]) and "root" not in found.meta["entry_point"]


def fenced(program: str, language: str = "python") -> str:
    return f"So:\n```{language}\n{program}\n```\nThat is it."


RIGHT = "def scale(numbers, factor):\n    return [one * factor for one in numbers]"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (fenced(RIGHT), RIGHT),
        (fenced(RIGHT, "") + fenced("print(scale([1], 2))"), RIGHT),
        (fenced("def other(): pass") + fenced(RIGHT, "py") + fenced("def test(): scale([1], 2)"), RIGHT),
        (RIGHT, RIGHT),
        (f"1. Do\n   ```python\n   {RIGHT.replace(chr(10), chr(10) + '   ')}\n   ```", RIGHT),
        (f"<think>{fenced('def scale(a, b): return 1')}</think>{fenced(RIGHT)}", RIGHT),
        (f"```python\n{RIGHT}", RIGHT),
        (fenced(RIGHT, "text"), None),
        (fenced(RIGHT + "("), None),
        (fenced("def other(numbers): return numbers"), None),
        (fenced("def scale(numbers, factor): return missing"), None),
        (fenced("def scale(numbers, factor):\n    while True: pass"), None),
        ("I do not know.", None),
    ],
)
def test_what_is_read(scale, text, found) -> None:
    answer = Grader("humaneval", KIND).extract(text, scale, "code")
    assert answer is None if found is None else answer.split("\n", 1)[1] == found
    assert Grader("humaneval", KIND).extract(text, scale, "code", truncated=True) is None


def test_programs_vote_by_what_they_return_and_labels_see_no_gold(scale) -> None:
    programs = [
        RIGHT,
        "def scale(numbers, factor):\n    new = []\n    for one in numbers: new += [factor * one]\n    return new",
        "def scale(numbers: List[int], factor: int):\n    return list(map(lambda one: float(one * factor), numbers))",
        "def scale(numbers, factor): return numbers * factor",
        "def scale(numbers, factor): return [3, 6]",
    ]
    unlabelled = Problem(scale.id, scale.question, None, scale.meta)
    grader = Grader("humaneval", KIND)
    answers = [grader.extract(fenced(program), unlabelled, "code") for program in programs]
    assert answers == [grader.extract(fenced(program), scale, "code") for program in programs]
    turns = tuple(Utterance("answer", 1, n, "q", "", answer) for n, answer in enumerate(answers))
    vote = consensus(Transcript(scale, (turns,), grader=grader), 1, 0, 1)
    assert vote.agrees == (True, True, True, False, False) and vote.answer == min(answers[:3], key=len)
    assert [grader.right(answer, scale) for answer in answers] == [True, True, True, False, False]
    assert not any(grader.right(answer, unlabelled) for answer in answers)


@pytest.mark.parametrize(
    ("row", "program", "right"),
    [
        (MBPP, "def join(a, b): return f'{a}-{b}'", True),
        (MBPP, "def join(a, b): return a + b", False),
        (MBPP, PAIR, True),
        (MBPP, "def check(a): return a + '-'\ndef join(a, b): return check(a) + b", True),
        (MBPP, "def join(a, b): raise AssertionError", False),
        (ROOTED, TREE.format(2), True),
        (ROOTED, TREE.format(3), False),
        (ROOTED, "def depth(node): return 2", False),
    ],
)
def test_gold_is_by_the_official_tests(tmp_path, row, program, right) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([row | {"task_id": "x"}]))
    found = get_task("mbpp").splits(tmp_path / "rows.json", 0, 1, 0).eval[0]
    grader = Grader("mbpp", KIND)
    assert grader.right(program, found) is right
    answer = grader.extract(fenced(program), found, "code")
    assert (
        answer is None
        if "Assertion" in program or "class" not in program and row is ROOTED
        else grader.right(answer, found) is right
    )


def test_a_question_that_shows_no_call_has_votes_by_text() -> None:
    problem = Problem("p", "Write f, somehow.")
    found = [
        Grader("code", KIND).extract(fenced(f"def f(x):\n{space}return {body}"), problem, "code")
        for space, body in (("  ", "+".join(["x"] * 900)), ("\n    ", "+".join(["x"] * 900)), ("  ", "900 * x"))
    ]
    keys = [(answer or "").partition("\n")[0] for answer in found]
    assert keys[0] == keys[1] != keys[2] and all(keys)


def test_inputs_are_like_those_shown() -> None:
    calls = calls_of("Call f([3, 1], 'ab', True, -2, {'k': 1.5}, None) or f(x) or def f(5).", "f")
    assert calls[0].startswith("f([3, 1], 'ab', True, -2") and len(calls) == 24 == len(set(calls))
    for call in calls:
        numbers, word, flag, low, table, nothing = eval(call, {"f": lambda *values: values})
        assert numbers and all(1 <= one <= 5 for one in numbers) and word and set(word) <= set("ab")
        assert flag in (True, False) and -4 <= low < 0 and list(table) == ["k"] and nothing is None
    assert calls == calls_of.__wrapped__("Call f([3, 1], 'ab', True, -2, {'k': 1.5}, None) or f(x) or def f(5).", "f")
