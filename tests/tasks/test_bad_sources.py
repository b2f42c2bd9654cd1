"""What is wrong with a source is said in one line that names file, place and remedy."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path

import pytest

from hpcmaf.errors import ConfigError, DataError, HpcmafError, PlatformError
from hpcmaf.tasks import get_task
from tests.tasks.conftest import gsm8k_rows, lay, math_record

GOOD = json.dumps({"question": "q?", "answer": "#### 1"}).encode() + b"\n"
PACKED = gzip.compress(GOOD, mtime=0)  # without the time, which would be another one in each test process
CHOICES = ["w", "x", "y", "z"]


def refused(task: str, source: Path, kind: type[HpcmafError] = DataError) -> str:
    """The one line that a source is refused with; nothing may have been written."""
    out = source.parent / "out"
    with pytest.raises(kind) as caught:
        get_task(task).prepare(str(source), out)
    assert not out.exists()
    message = str(caught.value)
    assert "\n" not in message and str(source) in message
    assert ";" in message, "no remedy"
    return message


def jsonl(*rows: dict) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


QUESTION = {"question": "q?", "answer": "1"}
CHOICE = {"question": "q?", "choices": CHOICES, "answer": 1}
MBPP = {"task_id": 1, "text": "Write f.", "code": "def f(a): return a", "test_list": ["assert f(1) == 1"]}
# Task, the file in question, its content, what is said of it.
BAD = [
    ("gsm8k", "train.jsonl", GOOD + b'{"question": "q?", "ans', "line 2: torn or not JSON"),
    ("gsm8k", "train.jsonl", GOOD + b'{"question": "q?"}', "line 2: no key 'answer' (keys found: question)"),
    ("gsm8k", "train.jsonl", GOOD + b'{"question": "  ", "answer": "#### 1"}', "line 2: 'question' is empty"),
    ("gsm8k", "train.jsonl", GOOD + b'{"question": ["q"], "answer": "#### 1"}', "line 2: 'question' is a list, not text"),
    ("gsm8k", "train.jsonl", GOOD + b'{"question": "q?", "answer": "42"}', "line 2: no number after '####'"),
    ("gsm8k", "train.jsonl", GOOD + b'{"question": "q?", "answer": NaN}', "line 2: no key 'answer'"),
    ("gsm8k", "train.jsonl", GOOD + b'{"question": "caf\xe9", "answer": "#### 1"}', "line 2: not UTF-8"),
    ("gsm8k", "train.jsonl", GOOD + b'["q?", "#### 1"]', "line 2: a JSON list where an object is expected"),
    ("gsm8k", "train.jsonl", GOOD + b"[" * 100_000, "line 2: torn or not JSON (maximum recursion depth exceeded"),
    ("gsm8k", "train.jsonl", b"", "holds no problems"),
    ("gsm8k", "notes.txt", b"x", "unknown kind of file"),
    ("math", "a.json", b'[\n{"prompt": "x",\n"answer"', "a.json: torn or not JSON (Expecting ':' delimiter: line 3"),
    ("math", "a.json", b'[{"prompt": "x", "answer": "1"}, 3]', "a.json, item 2: a JSON int where"),
    ("math", "2.json", jsonl(math_record(2) | {"solution": "It is 7."}), r"no complete \boxed{...} in 'solution'"),
    ("math", "2.json", jsonl(math_record(2) | {"level": "Hard"}), "level 'Hard' is none of MATH's"),
    ("mmlu", "test.jsonl", jsonl(CHOICE, CHOICE | {"choices": CHOICES[:3]}), "line 2: its choices are not 4"),
    ("mmlu", "test.jsonl", jsonl(CHOICE | {"choices": ["w", "x", "", "z"]}), "line 1: one of its choices is empty"),
    ("mmlu", "test.jsonl", jsonl(CHOICE | {"answer": "E"}), "line 1: answer 'E' is neither a letter"),
    ("mmlu", "anatomy_test.csv", b"q,w,x,y,z,A\nq,w,x,y,A\n", "line 2: its choices are not 4"),
    ("mmlu-pro", "test.jsonl", jsonl({"question": "q", "options": CHOICES, "answer": "E"}), "answer 'E' is neither"),
    ("arc", "test.jsonl", jsonl({"id": "1", "question": "q", "answerKey": "A"}), "is this ARC's own form?"),
    ("gpqa", "gpqa_main.csv", b"Question,Correct Answer\nq,a,b\n", "line 2: 3 cells under a header of 2"),
    ("svamp", "SVAMP.json", b'[{"Body": "b", "Question": "q"}]', "no key 'Answer'"),
    ("aime", "train.jsonl", jsonl({"problem": "q", "answer": "1/2"}), "answer '1/2' is no whole number"),
    ("mmlu", "anatomy_test.csv", b'q,w,x,y,z,A\nq,"w,x,y,z,A\n', "torn CSV"),
    ("mmlu", "m.json", json.dumps({n: [CHOICE | {"id": 5, "question": n}] for n in ("dev", "val", "test")}).encode(),
     "id 'mmlu-5' occurs in two of the splits that train"),
    ("jsonl", "own.jsonl", jsonl({"question": "q", "gold": "1"}), "line 1: has 'gold' but no 'answer'; rename the key"),
    ("jsonl", "own.jsonl", jsonl(QUESTION | {"id": 7}, {"id": "7", "question": "r", "answer": "1"}), "line 2: id '7' is taken by"),
    ("jsonl", "own.jsonl", jsonl(QUESTION | {"answer": ""}), "line 1: 'answer' is empty"),
    ("jsonl", "own.jsonl", b'{"question": "q", "answer": -Infinity}', "'answer' is -inf, which is no number"),
    ("jsonl", "test.jsonl", jsonl({"question": "q"}), "line 1: no 'answer', which a test problem needs"),
    ("gsm8k", "train.parquet", b"PAR1 and no more", "torn or not what its name says"),
    ("humaneval", "h.jsonl.gz", b"x", "torn or not gzip ("),
    ("humaneval", "h.jsonl.gz", PACKED[:-20], "torn or not gzip ("),
    ("humaneval", "h.jsonl.gz", PACKED[:20] + b"\0\0\0" + PACKED[23:], "torn or not"),
    ("mbpp", "m.jsonl", jsonl(MBPP | {"test_list": [5, None]}), "line 1: its asserts call no function"),
    ("mbpp", "m.jsonl", jsonl(MBPP | {"test_list": "assert f(1)"}), "line 1: test_list is no list of asserts"),
    ("mbpp", "m.jsonl", jsonl(MBPP | {"test_list": ["assert ("]}), "line 1: test_list is no list of asserts"),
    ("mbpp", "m.jsonl", jsonl(MBPP | {"test_list": ["assert 1 == len('a')"]}), "line 1: its asserts call no function"),
    ("mbpp", "m.jsonl", jsonl(MBPP | {"text": " "}), "line 1: 'text' is empty"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "name", "content", "said"), BAD)
def test_bad_content(task, name, content, said, tmp_path) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(task, tmp_path / name)
    assert said in message and name in message


def test_paths_and_layouts_that_are_not_there(tmp_path) -> None:
    assert "no such file or folder" in refused("gsm8k", tmp_path / "nowhere" / "at" / "all")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "unknown layout; expected one of train.jsonl" in refused("gsm8k", folder)
    with pytest.raises(ConfigError, match=r"task\.source: gsm8k needs one; run 'hpcmaf data prepare gsm8k"):
        get_task("gsm8k").splits(None, 1, 1, 0)
    with pytest.raises(DataError, match="no such file or folder"):
        get_task("gsm8k").splits(tmp_path / "nowhere", 1, 1, 0)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    line = refused("gsm8k", tmp_path / "train.parquet", PlatformError)
    assert re.search(r"needs pyarrow; .* pip install 'hpcmaf\[hub\]'", line)


@pytest.mark.parametrize("kind", ["folder", "dangling link", "pipe"])
def test_what_is_no_file_in_place_of_one(kind, tmp_path) -> None:
    path = tmp_path / "source" / "train.jsonl"
    path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "gone")
    refused("gsm8k", tmp_path / "source")


# --- folders in which something would be lost -----------------------------------


def gsm8k_files(folder: Path, *names: str) -> Path:
    """Files by name, each with three questions of GSM8K's form if it can have any."""
    known = (".jsonl", ".json", ".parquet")
    return lay(folder, {name: gsm8k_rows(Path(name).stem, 3) if name.endswith(known) else "x" for name in names})


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        ("train.jsonl test.json", None),
        ("train.parquet test.jsonl", None),
        ("train-00000-of-00001.parquet test.json", None),
        ("data/train.jsonl data/test.parquet", None),
        ("train.jsonl TEST.jsonl", None),
        ("train.jsonl main/test.jsonl socratic/test.jsonl default/notes.jsonl", None),
        ("train.jsonl gsm8k_test.jsonl", None),
        ("train.jsonl test/part.jsonl", None),
        ("train.jsonl test.jsonl old/train.jsonl prepared/.hidden/test.jsonl", None),
        ("train.jsonl test.jsonl train_socratic.jsonl dataset_info.json README.md test.py", ["train_socratic.jsonl"]),
    ],
)
def test_splits_in_different_forms_are_all_read(names, left_out, tmp_path) -> None:
    report = get_task("gsm8k").prepare(str(gsm8k_files(tmp_path / "source", *names.split())), tmp_path / "out")
    assert {name: report[name]["problems"] for name in ("train", "test")} == {"train": 3, "test": 3}
    assert report.get("left_out") == left_out


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train.jsonl", "test.jsonl", "train.parquet"), "train.jsonl and train.parquet are both its split 'train'"),
        (("train.jsonl", "test.jsonl", "data/test.jsonl"), "test.jsonl and data/test.jsonl are both its split 'test'"),
        (("train.jsonl", "main/train.jsonl"), "train.jsonl and main/train.jsonl are both its split 'train'"),
        (("train.jsonl", "test.csv"), "test.csv, line 1: no key 'question'"),
        (("train.jsonl", "test.jsonl.xz"), "seems to be the split 'test'"),
        (("train.jsonl", "test.jsonl", "test/part.jsonl"), "test.jsonl and test/part.jsonl are both its split 'test'"),
        (("train12k.json", "math500.json"), "unknown layout (it holds math500.json, train12k.json)"),
        (("own.jsonl", "test.tsv"), "seems to be the split 'test'"),
        (("own.jsonl", "other.jsonl"), "unknown layout (it holds other.jsonl, own.jsonl)"),
    ],
)
def test_what_would_be_lost_is_named(names, said, tmp_path) -> None:
    assert said in refused("gsm8k", gsm8k_files(tmp_path / "source", *names))
    with pytest.raises(DataError):
        get_task("gsm8k").splits(tmp_path / "source", 1, 1, 0)


def test_a_split_beside_prepared_ones_is_not_lost(tmp_path) -> None:
    get_task("gsm8k").prepare(str(gsm8k_files(tmp_path, "train.jsonl") / "train.jsonl"), tmp_path / "out")
    for name in ("test.json", "test.jsonl"):
        gsm8k_files(tmp_path / "out", name)
        with pytest.raises(DataError, match=rf"{name}: lies beside prepared problems"):
            get_task("gsm8k").splits(tmp_path / "out", 1, 1, 0)
        (tmp_path / "out" / name).unlink()
    assert get_task("gsm8k").splits(tmp_path / "out", 1, 1, 0).train


@pytest.mark.parametrize("value", ["NaN", '"nan"', '" NaN "', '"-nan"', '"<NA>"', "null"])
def test_an_answer_that_is_not_a_number_is_no_answer(value, tmp_path) -> None:
    line = f'{{"question": "q", "answer": {value}}}\n{{"question": "r", "answer": "1"}}\n'
    for name in ("all", "test"):
        (tmp_path / f"{name}.jsonl").write_text(line)
    counts = get_task("jsonl").prepare(str(tmp_path / "all.jsonl"), tmp_path / "ok")["all"]
    assert (counts["problems"], counts["without_answer"]) == (2, 1)
    assert "line 1: no 'answer', which a test problem needs" in refused("jsonl", tmp_path / "test.jsonl")
