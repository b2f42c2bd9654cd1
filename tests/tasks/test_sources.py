"""Every layout a data set comes in gives the same problems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpcmaf.errors import ConfigError
from hpcmaf.tasks import get_task, leak_guard
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.sources import locate, read_parts
from tests.tasks.conftest import lay, math_record


def read(task: str, source: Path) -> dict[str, list[Problem]]:
    """All problems of a source, by split."""
    found = get_task(task)
    return found.collect(read_parts(locate(source, found.configs)))[0]


# MATH


def official_math(root: Path) -> Path:
    return lay(
        root,
        {
            f"{split}/{subject}/{n}.json": math_record(n, n % 5 + 1, f"{split} {subject}")
            for split, count in (("train", 12), ("test", 6))
            for subject in ("algebra", "number_theory")
            for n in range(count)
        },
    )


def test_math_official_folder(tmp_path) -> None:
    pools = read("math", official_math(tmp_path / "MATH"))
    assert {name: len(pool) for name, pool in pools.items()} == {"train": 24, "test": 12}
    by_id = {problem.id: problem for problem in pools["train"]}
    assert by_id["math-train-algebra-7"].gold == r"\frac{7}{3}"
    assert by_id["math-train-algebra-7"].meta == {"level": "3", "subject": "train algebra"}
    assert read("math", tmp_path) == pools  # the unpacked archive's parent


def test_math_array_with_level_in_source(tmp_path) -> None:
    rows = [
        {"prompt": f"P{n}?", "answer": str(n), "source": f"MATH-Level{n}", "id": f"a/{n}.json"} for n in range(1, 6)
    ]
    # Both happen in a file that is passed around: a record twice, and an empty answer.
    rows += [rows[0], {"prompt": "P9?", "answer": "", "source": "MATH-Level1", "id": "a/9.json"}]
    report = get_task("math").prepare(str(lay(tmp_path, {"array.json": rows}) / "array.json"), tmp_path / "out")
    assert report["repeated_records"] == 1
    assert report["all"]["problems"] == 6 and report["all"]["without_answer"] == 1
    assert report["all"]["levels"] == {"1": 2, "2": 1, "3": 1, "4": 1, "5": 1}
    splits = get_task("math").splits(tmp_path / "out", 2, 2, 0)
    assert {problem.meta["level"] for problem in splits.train + splits.eval} <= {"1", "2", "3"}
    assert all(problem.gold for problem in splits.eval)


def test_math_levels(tmp_path) -> None:
    task, root = get_task("math"), official_math(tmp_path / "MATH")
    lay(root, {"train/algebra/99.json": math_record(99, "?", "train algebra")})
    # Levels go 1 2 3 4 5 1 ...: of 12 numbers, 3 3 2 2 2 per subject; of 6, 2 1 1 1 1.
    splits = task.splits(root, 16, 8, 0)
    assert {problem.meta["level"] for problem in splits.train + splits.eval} == {"1", "2", "3"}
    with pytest.raises(ConfigError, match=r"task\.train: 17 problems requested, 16 available"):
        task.splits(root, 17, 8, 0)
    assert {p.meta["level"] for p in task.splits(root, 4, 2, 0, [5]).train} == {"5"}
    assert "?" in {p.meta["level"] for p in task.splits(root, 25, 12, 0, [1, 2, 3, 4, 5]).train}
    with pytest.raises(ConfigError, match=r"task\.levels: .* no problem of level 7 in its split 'train'; it has 1, 2"):
        task.splits(root, 1, 1, 0, [7])


def test_math_without_levels_says_so(tmp_path) -> None:
    rows = [{"prompt": f"{n}?", "answer": "1", "source": "math", "id": str(n)} for n in range(20)]
    path = lay(tmp_path, {"math500.json": rows}) / "math500.json"
    with pytest.raises(ConfigError, match=r"it has none that says its level; set task.levels to .1, 2, 3, 4, 5. to"):
        get_task("math").splits(path, 5, 5, 0)
    splits = get_task("math").splits(path, 5, 5, 0, [1, 2, 3, 4, 5])
    assert len(splits.train) == len(splits.eval) == 5


# MMLU


def test_mmlu_official_csv(tmp_path) -> None:
    for split, count in (("dev", 2), ("val", 3), ("test", 4)):
        for subject in ("abstract_algebra", "world_religions"):
            questions = [f'{subject} {split} {n}, "quoted",\nand over lines?' for n in range(count)]
            rows = [[q, "one", "2,5", "None", "four", gold] for q, gold in zip(questions, "ABCD", strict=False)]
            lay(tmp_path, {f"{split}/{subject}_{split}.csv": rows})
    pools = read("mmlu", tmp_path)
    assert {name: len(pool) for name, pool in pools.items()} == {"val": 6, "dev": 4, "test": 8}
    assert pools["test"][5] == Problem(
        "mmlu-test-world_religions-00001",
        'world_religions test 1, "quoted",\nand over lines?\n(A) one\n(B) 2,5\n(C) None\n(D) four',
        "B",
        {"subject": "world_religions"},
    )
    splits = get_task("mmlu").splits(tmp_path, 10, 8, 0)
    assert {problem.id.split("-")[1] for problem in splits.train} == {"dev", "val"}
    assert {problem.id.split("-")[1] for problem in splits.eval} == {"test"}


def test_mmlu_redux_object_with_splits(tmp_path) -> None:
    choices = dict(zip("ABCD", ("w", "x", "y", "z"), strict=True))
    record = {"question": "Which of these?", "choices": choices, "answer": "A"}
    other = {**record, "choices": {**choices, "D": "other"}}
    redux = {
        "name": "redux",
        "dev": [{**record, "id": 1}, {**other, "id": 2}],
        "test": [{**record, "id": 3, "question": "WHICH of these?"}],
    }
    get_task("mmlu").prepare(str(lay(tmp_path, {"redux.json": redux}) / "redux.json"), tmp_path / "out")
    # Same words with other choices are another question; the same with both is held out.
    splits = get_task("mmlu").splits(tmp_path / "out", 1, 1, 0)
    assert ([p.id for p in splits.train], [p.id for p in splits.eval]) == (["mmlu-2"], ["mmlu-3"])
    leak_guard(splits.train, splits.eval)
    with pytest.raises(ConfigError, match=r"task\.train: 2 problems requested, 1 available"):
        get_task("mmlu").splits(tmp_path / "out", 2, 1, 0)


# Your own


def test_own_questions_with_and_without_answers(tmp_path) -> None:
    rows: list[dict[str, Any]] = [{"question": f"q{n}", "answer": n} for n in range(10)]
    rows += [{"question": f"open {n}"} for n in range(6)]
    # Another spelling, a repeated line, another answer to the same question.
    rows += [{"question": "Q3 ", "answer": 3}, rows[4], {"question": "q5", "answer": "five"}]
    rows += [{"question": "named", "answer": 0.10, "id": "mine", "level": 2}]
    path = lay(tmp_path, {"own.jsonl": rows}) / "own.jsonl"
    counts = {"problems": 19, "without_answer": 6, "levels": {"2": 1}, "repeated_questions": 2}
    assert get_task("jsonl").prepare(str(path), tmp_path / "out") == {"all": counts, "repeated_records": 1}
    splits = get_task("jsonl").splits(tmp_path / "out", 6, 11, 0)
    assert {problem.gold for problem in splits.train} == {None}
    assert sorted(problem.gold for problem in splits.eval)[:2] == ["0", "0.1"]
    assert "mine" in {problem.id for problem in splits.eval}
    assert splits == get_task("jsonl").splits(path, 6, 11, 0)  # raw and prepared alike


@pytest.mark.parametrize(
    "name",
    [
        "gsm8k: main/{split}-0000{part}-of-00002.parquet",
        "gsm8k: grade_school_math/data/{split}.jsonl",
        "gsm8k: {split}.json",
        "gsm8k: main/{split}/000{part}.parquet",  # as the hub converts them
        "math: algebra/{split}/000{part}.parquet",
        "mmlu: all/{split}/000{part}.parquet",
        "jsonl: default/{split}/000{part}.parquet",
    ],
)
def test_layouts_agree(name, tmp_path) -> None:
    task, path = name.split(": ")
    row = {"choices": ["w", "x", "y", "z"], "answer": "A" if task == "mmlu" else "#### 1"}
    row |= {"solution": r"\boxed{1}"} if task == "math" else {}
    files: dict[str, list[dict[str, Any]]] = {}
    for split in ("train", "test"):
        for part in range(2):
            question = f"{split} {part}?"
            record = {"problem" if task == "math" else "question": question, **row}
            files.setdefault(path.format(split=split, part=part), []).append(record)
    pools = read(task, lay(tmp_path, files))
    found = {split: [problem.question.partition("\n")[0] for problem in pool] for split, pool in pools.items()}
    assert found == {split: [f"{split} {part}?" for part in range(2)] for split in ("train", "test")}


# Records


def rows(key: str, *values: object, **more: object) -> list[dict[str, Any]]:
    """A record for each value of a key, with a question of its own unless it has one."""
    return [{"question": f"{n}?"} | more | {key: value} for n, value in enumerate(values)]


MARKED = {
    "#### 1,234,567": "1234567",
    "a #### b\n#### -12": "-12",
    "####$3.50 ": "3.50",
    "x\n#### 0": "0",
    "#### $1,080": "1080",
}
NAN, WXYZ = float("nan"), ["w", "x", "y", "z"]
BY_SUBJECT = {
    f"{name}/train-0.parquet": [math_record(n, 2, name) for n in range(2)] for name in ("algebra", "geometry")
}
OF_SUBJECTS = [
    (f"math-train-{name}-0000{n}", rf"\frac{{{n}}}{{3}}") for name in ("algebra", "geometry") for n in range(2)
]
BOXED = {"solution": r"so $\boxed{4}$"}
EMPTY = [{"problem": "0?", "answer": "", **BOXED}, {"problem": "1?", "answer": " "}]
WHICH = {"question": "Which?", "subject": "law", "choices": WXYZ}
LAW = Problem("mmlu-test-00000", "Which?\n(A) w\n(B) x\n(C) y\n(D) z", "C", {"subject": "law"})
PRO = [{"question_id": n, "options": [f"o{k}" for k in range(n)], "answer": "ABCDEFGHIJ"[n - 1]} for n in (4, 10)]
ARC = {"id": "T1", "answerKey": "2", "question": {"stem": "Why?"}}
ARC["question"]["choices"] = [{"text": text, "label": label} for text, label in zip("xyz", "123", strict=True)]
HUB_ARC = ARC | {"question": "Why?", "choices": {"text": list("xyz"), "label": list("123")}}
WHY = Problem("arc-T1", "Why?\n(A) x\n(B) y\n(C) z", "B")
SVAMP = {"ID": "chal-1", "Body": "Ann has 8 pens", "Question": "How many?", "Equation": "( 8.0 - 3.0 )", "Answer": 5.0}
AIME = [{"ID": "2024-II-4", "Problem": "x", "Answer": "033"}, *rows("answer", 142.0, "000")]


@pytest.mark.parametrize(
    ("task", "files", "wanted"),
    [
        ("gsm8k", {"one.jsonl": rows("answer", *MARKED)}, {"all": list(MARKED.values())}),
        ("gsm8k", {"train.jsonl": "\ufeff" + json.dumps(rows("answer", "#### 1")[0]) + "\r\n\n"}, {"train": ["1"]}),
        ("math", BY_SUBJECT, {"train": OF_SUBJECTS}),
        # An empty answer hides no solution.
        ("math", {"train.jsonl": EMPTY}, {"train": ["4", None]}),
        ("math", {"train.jsonl": rows("answer", None, NAN, **BOXED)}, {"train": ["4", "4"]}),
        ("jsonl", {"train-0.parquet": rows("answer", 1.0, NAN)}, {"train": ["1.0", None]}),
        (
            "mmlu",
            {"all/auxiliary_train-0.parquet": [WHICH], "all/test-0.parquet": [WHICH | {"answer": 2}]},
            {"test": [LAW]},
        ),
        # The whole of it stands for its subjects.
        (
            "mmlu",
            {f"{folder}/test-0.parquet": [WHICH | {"answer": n}] for n, folder in enumerate(("law", "all"))},
            {"test": ["B"]},
        ),
        ("mmlu", {"letters.jsonl": rows("answer", "d", choices=WXYZ)}, {"all": ["D"]}),
        ("mmlu", {"test/anatomy_test.csv": [["x" * 200_000, *"abcdA"]]}, {"test": ["A"]}),
        (
            "mmlu-pro",
            {"data/test-00000-of-00001.parquet": [one | {"question": "q"} for one in PRO]},
            {"test": [("mmlu-pro-4", "D"), ("mmlu-pro-10", "J")]},
        ),
        (
            "arc",
            {f"ARC-Challenge/ARC-Challenge-{name}.jsonl": [ARC] for name in ("Dev", "Test")},
            {"dev": [WHY], "test": [WHY]},
        ),
        ("arc", {"test.jsonl": [HUB_ARC]}, {"test": [WHY]}),
        ("svamp", {"SVAMP.json": [SVAMP]}, {"all": [Problem("svamp-chal-1", "Ann has 8 pens. How many?", "5")]}),
        (
            "aime",
            {"train.jsonl": AIME},
            {"train": [("aime-2024-II-4", "33"), ("aime-train-00001", "142"), ("aime-train-00002", "0")]},
        ),
    ],
)
def test_records_become_problems(task, files, wanted, tmp_path) -> None:
    pools = read(task, lay(tmp_path, files))
    assert pools.keys() == wanted.keys()
    for split, pool in pools.items():
        for problem, one in zip(pool, wanted[split], strict=True):
            assert one in (problem, (problem.id, problem.gold), problem.gold)


def test_gpqa_has_its_choices_in_an_order_of_their_own(tmp_path) -> None:
    wrong = [f"Incorrect Answer {n}" for n in (1, 2, 3)]
    columns = ["Record ID", "Question", "Correct Answer", *wrong, "High-level domain"]
    rows = [[f"rec{n}", f"Which,\n{n}?", "right", "w1", "w2", "w3", "Physics"] for n in range(40)]
    lay(tmp_path, {"gpqa_diamond.csv": [columns, *rows]})
    problems = read("gpqa", tmp_path / "gpqa_diamond.csv")["all"]
    assert {p.gold for p in problems} == set("ABCD") and problems == read("gpqa", tmp_path / "gpqa_diamond.csv")["all"]
    assert all(f"({p.gold}) right" in p.question and p.question.count("\n(") == 4 for p in problems)
