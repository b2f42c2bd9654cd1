"""Every layout a data set comes in gives the same problems."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from hpcmaf.errors import ConfigError
from hpcmaf.tasks import get_task, leak_guard
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.sources import locate, read_parts
from tests.tasks.conftest import gsm8k_rows, math_record, write_jsonl


def read(task: str, source: Path) -> dict[str, list[Problem]]:
    """All problems of a source, by split."""
    found = get_task(task)
    return found.collect(read_parts(locate(source, found.layouts)))[0]


def prepared(task: str, source: Path, tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    """What ``prepare`` wrote, read without the project's own reader."""
    out = tmp_path / "prepared"
    get_task(task).prepare(str(source), out)
    return {path.stem: [json.loads(line) for line in path.open()] for path in out.glob("*.jsonl")}


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


# GSM8K


def test_gsm8k_official_folder(gsm8k_folder, tmp_path) -> None:
    written = prepared("gsm8k", gsm8k_folder, tmp_path)
    assert {name: len(rows) for name, rows in written.items()} == {"train": 20, "test": 8}
    assert written["test"][3] == {
        "id": "gsm8k-test-00003",
        "question": "test story 3: how many?",
        "gold": "1003",
        "meta": {},
    }


@pytest.mark.parametrize(
    "lay",
    [
        lambda root, split, rows: write_parquet(root / f"main/{split}-00000-of-00001.parquet", rows),
        lambda root, split, rows: write_parquet(root / f"{split}-00000-of-00001.parquet", rows),
        lambda root, split, rows: write_jsonl(root / f"main/{split}.jsonl", rows),
        lambda root, split, rows: write_jsonl(root / f"grade_school_math/data/{split}.jsonl", rows),
        lambda root, split, rows: (root / f"{split}.json").write_text(json.dumps(rows)),
    ],
    ids=["hub", "parquet", "config-jsonl", "repository", "json"],
)
def test_gsm8k_layouts_agree(lay, gsm8k_folder, tmp_path) -> None:
    root = tmp_path / "laid out"
    root.mkdir()
    for split, count in (("train", 20), ("test", 8)):
        lay(root, split, gsm8k_rows(split, count))
    assert read("gsm8k", root) == read("gsm8k", gsm8k_folder)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("#### 1,234,567", "1234567"), ("a #### b\n#### -12", "-12"), ("####$3.50 ", "3.50"), ("x\n#### 0", "0")],
)
def test_gsm8k_gold(answer, gold, tmp_path) -> None:
    path = write_jsonl(tmp_path / "one.jsonl", [{"question": "Q?", "answer": answer}])
    assert [problem.gold for problem in read("gsm8k", path)["all"]] == [gold]


# MATH


def official_math(root: Path) -> Path:
    for split, count in (("train", 12), ("test", 6)):
        for subject in ("algebra", "number_theory"):
            (root / split / subject).mkdir(parents=True)
            for n in range(count):
                record = math_record(n, n % 5 + 1, f"{split} {subject}")
                (root / split / subject / f"{n}.json").write_text(json.dumps(record))
    return root


def test_math_official_folder(tmp_path) -> None:
    pools = read("math", official_math(tmp_path / "MATH"))
    assert {name: len(pool) for name, pool in pools.items()} == {"train": 24, "test": 12}
    by_id = {problem.id: problem for problem in pools["train"]}
    assert by_id["math-train-algebra-7"].gold == r"\frac{7}{3}"
    assert by_id["math-train-algebra-7"].meta == {"level": "3", "subject": "train algebra"}
    assert read("math", tmp_path) == pools  # the unpacked archive's parent


def test_math_hub_folders_by_subject(tmp_path) -> None:
    for subject in ("algebra", "geometry"):
        rows = [math_record(n, 2, subject) for n in range(4)]
        write_parquet(tmp_path / f"{subject}/train-00000-of-00001.parquet", rows)
        write_parquet(tmp_path / f"{subject}/test-00000-of-00001.parquet", rows[:2])
    pools = read("math", tmp_path)
    assert {name: len(pool) for name, pool in pools.items()} == {"train": 8, "test": 4}
    assert pools["train"][5].id == "math-train-geometry-00001"


def test_math_array_with_level_in_source(tmp_path) -> None:
    rows = [
        {"prompt": f"P{n}?", "answer": str(n), "source": f"MATH-Level{n}", "id": f"a/{n}.json"} for n in range(1, 6)
    ]
    # Both happen in a file that is passed around: a record twice, and an empty answer.
    rows += [rows[0], {"prompt": "P9?", "answer": "", "source": "MATH-Level1", "id": "a/9.json"}]
    path = tmp_path / "array.json"
    path.write_text(json.dumps(rows, indent=1))
    report = get_task("math").prepare(str(path), tmp_path / "out")
    assert report["repeated_records"] == 1
    assert report["all"]["problems"] == 6 and report["all"]["without_answer"] == 1
    assert report["all"]["levels"] == {"1": 2, "2": 1, "3": 1, "4": 1, "5": 1}
    splits = get_task("math").splits(tmp_path / "out", 2, 2, 0)
    assert {problem.meta["level"] for problem in splits.train + splits.eval} <= {"1", "2", "3"}
    assert all(problem.gold for problem in splits.eval)


def test_math_levels(tmp_path) -> None:
    task, root = get_task("math"), official_math(tmp_path / "MATH")
    (root / "train/algebra/99.json").write_text(json.dumps(math_record(99, "?", "train algebra")))
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
    path = tmp_path / "math500.json"
    path.write_text(json.dumps([{"prompt": f"{n}?", "answer": "1", "source": "math", "id": str(n)} for n in range(20)]))
    with pytest.raises(ConfigError, match=r"it has none that says its level; set task.levels to .1, 2, 3, 4, 5. to"):
        get_task("math").splits(path, 5, 5, 0)
    splits = get_task("math").splits(path, 5, 5, 0, [1, 2, 3, 4, 5])
    assert len(splits.train) == len(splits.eval) == 5


# MMLU


def test_mmlu_official_csv(tmp_path) -> None:
    for split, count in (("dev", 2), ("val", 3), ("test", 4)):
        (tmp_path / split).mkdir()
        for subject in ("abstract_algebra", "world_religions"):
            with (tmp_path / split / f"{subject}_{split}.csv").open("w", newline="") as file:
                for n in range(count):
                    question = f'{subject} {split} {n}, "quoted",\nand over lines?'
                    csv.writer(file).writerow([question, "one", "2,5", "None", "four", "ABCD"[n]])
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


def test_mmlu_hub_indices_lists_and_letters(tmp_path) -> None:
    row = {"question": "Which?", "subject": "anatomy", "choices": ["w", "x", "y", "z"]}
    write_parquet(tmp_path / "all/test-00000-of-00001.parquet", [{**row, "answer": 2}])
    write_parquet(tmp_path / "all/validation-00000-of-00001.parquet", [{**row, "question": "Why?", "answer": 0}])
    write_parquet(tmp_path / "all/auxiliary_train-00000-of-00001.parquet", [{**row, "answer": 1}])
    pools = read("mmlu", tmp_path)
    question = "Which?\n(A) w\n(B) x\n(C) y\n(D) z"
    assert pools["test"] == [Problem("mmlu-test-00000", question, "C", {"subject": "anatomy"})]
    assert sorted(pools) == ["test", "validation"]
    path = write_jsonl(tmp_path / "letters.jsonl", [{**row, "answer": "d"}])
    assert read("mmlu", path)["all"][0].gold == "D"


def test_mmlu_redux_object_with_splits(tmp_path) -> None:
    choices = dict(zip("ABCD", ("w", "x", "y", "z"), strict=True))
    record = {"question": "Which of these?", "choices": choices, "answer": "A"}
    other = {**record, "choices": {**choices, "D": "other"}}
    redux = {
        "name": "redux",
        "dev": [{**record, "id": 1}, {**other, "id": 2}],
        "test": [{**record, "id": 3, "question": "WHICH of these?"}],
    }
    path = tmp_path / "redux.json"
    path.write_text(json.dumps(redux))
    get_task("mmlu").prepare(str(path), tmp_path / "out")
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
    path = write_jsonl(tmp_path / "own.jsonl", rows)
    assert get_task("jsonl").prepare(str(path), tmp_path / "out") == {
        "all": {
            "problems": 19,
            "without_answer": 6,
            "levels": {"2": 1},
            "repeated_questions": 2,
        },
        "repeated_records": 1,
    }
    splits = get_task("jsonl").splits(tmp_path / "out", 6, 11, 0)
    assert {problem.gold for problem in splits.train} == {None}
    assert sorted(problem.gold for problem in splits.eval)[:2] == ["0", "0.1"]
    assert "mine" in {problem.id for problem in splits.eval}
    assert splits == get_task("jsonl").splits(path, 6, 11, 0)  # raw and prepared alike


def test_nan_in_a_table_is_an_empty_cell(tmp_path) -> None:
    rows = [{"question": "q", "answer": 1.0, "level": None}, {"question": "r", "answer": float("nan"), "level": None}]
    write_parquet(tmp_path / "train-00000-of-00001.parquet", rows)
    assert [problem.gold for problem in read("jsonl", tmp_path)["train"]] == ["1.0", None]


def test_cells_of_a_csv_may_be_long(tmp_path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test/anatomy_test.csv").write_text(f'"{"x" * 200_000}",a,b,c,d,A\n')
    [problem] = read("mmlu", tmp_path)["test"]
    assert len(problem.question) > 200_000 and problem.gold == "A"


@pytest.mark.parametrize("empty", ["", "  ", None, float("nan")])
def test_an_empty_answer_hides_no_solution(empty, tmp_path) -> None:
    rows = [{"problem": f"p{n}", "answer": empty, "level": "Level 2"} for n in range(2)]
    rows[0]["solution"] = r"so $\boxed{4}$"
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(rows[0]) + "\n" + (json.dumps(rows[1]) + "\n" if isinstance(empty, str) else ""))
    assert [problem.gold for problem in read("math", path)["train"]] == ["4", None][: 1 + isinstance(empty, str)]


@pytest.mark.parametrize(
    ("task", "folder"),
    [
        ("gsm8k", "main"),
        ("gsm8k", "default"),
        ("math", "algebra"),
        ("mmlu", "all"),
        ("jsonl", "default"),
        ("jsonl", ""),
    ],
)
def test_the_layout_that_the_hub_converts_to(task, folder, tmp_path) -> None:
    row = {"question": "q", "choices": ["w", "x", "y", "z"], "answer": "#### 1", "solution": r"\boxed{1}"}
    row |= {"answer": "A"} if task == "mmlu" else {"problem": "q"} if task == "math" else {}
    for split in ("train", "test"):
        for part in range(2):
            write_parquet(tmp_path / folder / split / f"{part:04d}.parquet", [row | {"question": f"{split} {part}?"}])
    pools = read(task, tmp_path)
    assert {split: len(pool) for split, pool in pools.items()} == {"train": 2, "test": 2}


# Tasks of other benchmarks


def test_mmlu_pro_has_ten_choices_and_letters_to_j(tmp_path) -> None:
    rows = [
        {"question_id": n, "question": f"{split} {n}?", "options": [f"o{k}" for k in range(size)],
         "answer": "ABCDEFGHIJ"[size - 1], "answer_index": size - 1, "category": "law"}
        for split, n, size in (("validation", 1, 10), ("test", 2, 4), ("test", 3, 10))
    ]  # fmt: skip
    write_parquet(tmp_path / "data/validation-00000-of-00001.parquet", rows[:1])
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", rows[1:])
    pools = read("mmlu-pro", tmp_path)
    assert [(p.id, p.gold, p.meta) for p in pools["test"]] == [
        ("mmlu-pro-2", "D", {"subject": "law"}), ("mmlu-pro-3", "J", {"subject": "law"}),
    ]  # fmt: skip
    assert pools["test"][1].question.endswith("\n(I) o8\n(J) o9")
    assert len(get_task("mmlu-pro").splits(tmp_path, 1, 2, 0).train) == 1


def test_arc_in_its_own_lines_and_in_the_hubs_rows(tmp_path) -> None:
    texts, numbered = ["w", "x", "y"], ["1", "2", "3"]
    own = {"stem": "Why?", "choices": [{"text": t, "label": n} for t, n in zip(texts, numbered, strict=True)]}
    for split in ("Train", "Dev", "Test"):
        row = {"id": f"{split}_1", "question": {**own, "stem": f"Why {split}?"}, "answerKey": "2"}
        write_jsonl(tmp_path / f"ARC-Challenge/ARC-Challenge-{split}.jsonl", [row])
    pools = read("arc", tmp_path)
    assert set(pools) == {"train", "dev", "test"}
    assert pools["test"] == [Problem("arc-Test_1", "Why Test?\n(A) w\n(B) x\n(C) y", "B")]
    write_jsonl(tmp_path / "hub/test.jsonl", [{"id": "Test_1", "question": "Why Test?", "answerKey": "2",
                                               "choices": {"text": texts, "label": numbered}}])  # fmt: skip
    assert read("arc", tmp_path / "hub")["test"] == pools["test"]


def test_gpqa_has_its_choices_in_an_order_of_their_own(tmp_path) -> None:
    columns = [
        "Record ID",
        "Question",
        "Correct Answer",
        *(f"Incorrect Answer {n}" for n in (1, 2, 3)),
        "High-level domain",
    ]
    with (tmp_path / "gpqa_diamond.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([f"rec{n}", f"Which,\n{n}?", "right", "w1", "w2", "w3", "Physics"] for n in range(40))
    problems = read("gpqa", tmp_path / "gpqa_diamond.csv")["all"]
    assert {p.gold for p in problems} == set("ABCD") and problems == read("gpqa", tmp_path / "gpqa_diamond.csv")["all"]
    assert all(f"({p.gold}) right" in p.question and p.question.count("\n(") == 4 for p in problems)


def test_svamp_and_aime(tmp_path) -> None:
    row = {
        "ID": "chal-1",
        "Body": "Ann has 8 pens",
        "Question": "How many?",
        "Equation": "( 8.0 - 3.0 )",
        "Answer": 5.0,
    }
    (tmp_path / "SVAMP.json").write_text(json.dumps([row]))
    assert read("svamp", tmp_path)["all"] == [Problem("svamp-chal-1", "Ann has 8 pens. How many?", "5")]
    rows = [{"ID": "2024-II-4", "Problem": "Find $x$.", "Answer": "033"}, {"problem": "Find $y$.", "answer": 142.0},
            {"problem": "Find $z$.", "answer": "000"}]  # fmt: skip
    found = read("aime", write_jsonl(tmp_path / "aime/train.jsonl", rows))["train"]
    assert [(p.id, p.gold) for p in found] == [
        ("aime-2024-II-4", "33"), ("aime-train-00001", "142"), ("aime-train-00002", "0"),
    ]  # fmt: skip
