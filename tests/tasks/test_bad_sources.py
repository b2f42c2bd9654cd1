"""What is wrong with a source is said in one line that names file, place and remedy."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from hpcmaf.errors import ConfigError, DataError, HpcmafError, PlatformError
from hpcmaf.tasks import GENERATED, TASKS, get_task
from tests.tasks.conftest import gsm8k_rows, math_record, write_jsonl

GOOD = json.dumps({"question": "q?", "answer": "#### 1"}).encode() + b"\n"
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


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (b'{"question": "q?", "ans', "line 2: torn or not JSON"),
        (b'{"question": "q?"}', "line 2: no key 'answer' (keys found: question)"),
        (b'{"question": "  ", "answer": "#### 1"}', "line 2: 'question' is empty"),
        (b'{"question": ["q"], "answer": "#### 1"}', "line 2: 'question' is a list, not text"),
        (b'{"question": true, "answer": "#### 1"}', "line 2: 'question' is a bool, not text"),
        (b'{"question": null, "answer": "#### 1"}', "line 2: no key 'question'"),
        (b'{"question": "q?", "answer": "42"}', "line 2: no number after '####'"),
        (b'{"question": "q?", "answer": "#### many"}', "line 2: no number after '####'"),
        (b'{"question": "caf\xe9", "answer": "#### 1"}', "line 2: not UTF-8"),
        (b'["q?", "#### 1"]', "line 2: a JSON list where an object is expected"),
        (b"[" * 100_000, "line 2: JSON beyond what can be read"),
        (b"[" + b"9" * 5000 + b"]", "line 2: JSON beyond what can be read"),
    ],
)
def test_bad_lines(second, said, tmp_path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(GOOD + second + b"\n" + GOOD)
    assert said in refused("gsm8k", path)


def test_byte_order_mark_and_blank_lines_are_no_fault(tmp_path) -> None:
    (tmp_path / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n\n")
    assert get_task("gsm8k").prepare(str(tmp_path), tmp_path / "out")["train"]["problems"] == 1


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_file(content, tmp_path) -> None:
    (tmp_path / "train.jsonl").write_text(content)
    assert "train.jsonl: holds no problems" in refused("gsm8k", tmp_path / "train.jsonl")


def test_empty_array_and_torn_array(tmp_path) -> None:
    (tmp_path / "a.json").write_text("[]")
    assert "holds no problems" in refused("math", tmp_path / "a.json")
    (tmp_path / "b.json").write_text('[\n{"prompt": "x",\n"answer"')
    assert "b.json, line 3: torn or not JSON" in refused("math", tmp_path / "b.json")
    (tmp_path / "c.json").write_bytes(b'[\n{"prompt": "\xff"}]')
    assert "c.json, line 2: not UTF-8" in refused("math", tmp_path / "c.json")
    (tmp_path / "d.json").write_text('[{"prompt": "x", "answer": "1"}, 3]')
    assert "d.json, item 2: a JSON int where" in refused("math", tmp_path / "d.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"solution": "It is 7."}, r"no complete \boxed{...} in 'solution'"),
        ({"solution": r"It is \boxed{\frac{1}{2}"}, r"no complete \boxed{...} in 'solution'"),
        ({"level": "Hard"}, "level 'Hard' is none of MATH's"),
        ({"problem": None}, "no key 'problem'"),
    ],
)
def test_bad_math_files(change, said, tmp_path) -> None:
    folder = tmp_path / "MATH" / "train" / "algebra"
    folder.mkdir(parents=True)
    (folder / "1.json").write_text(json.dumps(math_record(1)))
    (folder / "2.json").write_text(json.dumps({**math_record(2), **change}))
    message = refused("math", tmp_path / "MATH")
    assert said in message and str(folder / "2.json") in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"choices": CHOICES[:3]}, "'choices' are not four"),
        ({"choices": {"A": "w", "B": "x", "C": "y"}}, "'choices' are not four"),
        ({"choices": "wxyz"}, "'choices' are not four"),
        ({"choices": ["w", "x", "", "z"]}, "one of its choices is empty"),
        ({"choices": dict(zip("abcd", CHOICES, strict=True))}, "one of its choices is empty"),
        ({"answer": "E"}, "answer 'E' is neither a letter"),
        ({"answer": 4}, "answer '4' is neither a letter"),
    ],
)
def test_bad_mmlu_rows(change, said, tmp_path) -> None:
    rows = [{"question": f"q{n}", "choices": CHOICES, "answer": 1} for n in range(2)]
    path = write_jsonl(tmp_path / "test.jsonl", [rows[0], {**rows[1], **change}])
    assert f"line 2: {said}" in refused("mmlu", path)


@pytest.mark.parametrize(
    ("line", "said"),
    [("q,w,x,y,A", "line 2: 5 columns where MMLU has six"), ('q,"w,x,y,z,A', "torn CSV")],
)
def test_bad_mmlu_csv(line, said, tmp_path) -> None:
    path = tmp_path / "mmlu" / "test" / "anatomy_test.csv"
    path.parent.mkdir(parents=True)
    path.write_text(f"q,w,x,y,z,A\n{line}\n")
    message = refused("mmlu", tmp_path / "mmlu")
    assert said in message and str(path) in message


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question": "q", "gold": "1"}], "line 1: has 'gold' but no 'answer'; rename the key"),
        (
            [{"id": 7, "question": "q", "answer": "1"}, {"id": "7", "question": "r", "answer": "1"}],
            "line 2: id '7' is taken by",
        ),
        ([{"question": "q", "answer": ""}], "line 1: 'answer' is empty"),
        ([{"question": "q", "answer": {"x": 1}}], "line 1: 'answer' is a dict"),
    ],
)
def test_bad_own_lines(rows, said, tmp_path) -> None:
    assert said in refused("jsonl", write_jsonl(tmp_path / "own.jsonl", rows))


def test_own_test_question_without_answer(tmp_path) -> None:
    path = write_jsonl(tmp_path / "test.jsonl", [{"question": "q"}])
    assert "line 1: no 'answer', which a test problem needs" in refused("jsonl", path)


def test_an_id_in_both_splits_that_train(tmp_path) -> None:
    row = {"choices": CHOICES, "answer": 1, "id": 5}
    splits = {name: [{**row, "question": name}] for name in ("dev", "val", "test")}
    (tmp_path / "m.json").write_text(json.dumps(splits))
    assert "id 'mmlu-5' occurs in two of the splits that train" in refused("mmlu", tmp_path / "m.json")


def test_paths_and_layouts_that_are_not_there(tmp_path) -> None:
    assert "no such file or folder" in refused("gsm8k", tmp_path / "nowhere" / "at" / "all")
    (tmp_path / "notes.txt").write_text("x")
    assert "unknown kind of file" in refused("gsm8k", tmp_path / "notes.txt")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "unknown layout; expected one of train.jsonl" in refused("gsm8k", folder)
    with pytest.raises(ConfigError, match=r"task\.source: gsm8k needs one; run 'hpcmaf data prepare gsm8k"):
        get_task("gsm8k").splits(None, 1, 1, 0)
    with pytest.raises(DataError, match="no such file or folder"):
        get_task("gsm8k").splits(tmp_path / "nowhere", 1, 1, 0)


def test_torn_columnar_files(tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(gsm8k_rows("train", 50)), path)
    path.write_bytes(path.read_bytes()[:-100])
    assert "torn or not what its name says" in refused("gsm8k", path)
    (tmp_path / "train.arrow").write_bytes(b"not arrow at all")
    assert "torn or not what its name says" in refused("gsm8k", tmp_path / "train.arrow")


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    for name in ("train.parquet", "train.arrow"):
        (tmp_path / name).write_bytes(b"PAR1")
        assert re.search(
            r"needs pyarrow; .* pip install 'hpcmaf\[hub\]'", refused("gsm8k", tmp_path / name, PlatformError)
        )


@pytest.mark.parametrize("name", ["train.jsonl", "train.json", "train.csv"])
def test_a_folder_named_like_a_file(name, tmp_path) -> None:
    """It matches a layout's pattern but cannot be read as a file."""
    (tmp_path / "source" / name).mkdir(parents=True)
    refused("gsm8k", tmp_path / "source")


def test_a_dangling_link(tmp_path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    os.symlink(tmp_path / "gone", source / "train.jsonl")
    assert "train.jsonl" in refused("gsm8k", source)


# --- folders in which something would be lost -----------------------------------


def lay(folder: Path, *names: str) -> Path:
    """Files by name, each with three questions of GSM8K's form."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = gsm8k_rows(path.stem, 3)
        match path.suffix:
            case ".jsonl":
                write_jsonl(path, rows)
            case ".json":
                path.write_text(json.dumps(rows))
            case ".parquet":
                pq.write_table(pa.Table.from_pylist(rows), path)
            case _:
                path.write_text("x")
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "test.json"),
        ("train.parquet", "test.jsonl"),
        ("train-00000-of-00001.parquet", "test.json"),
        ("data/train.jsonl", "data/test.parquet"),
    ],
)
def test_splits_in_different_forms_are_all_read(names, tmp_path) -> None:
    report = get_task("gsm8k").prepare(str(lay(tmp_path / "source", *names)), tmp_path / "out")
    assert {name: report[name]["problems"] for name in ("train", "test")} == {"train": 3, "test": 3}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train.jsonl", "test.jsonl", "train.parquet"), "both hold the split 'train'"),
        (("train.jsonl", "test.jsonl", "data/test.jsonl"), "both hold the split 'test'"),
        (("train.jsonl", "main/test.jsonl"), "name the folder that is meant"),
        (("train.jsonl", "test.csv"), "test.csv, line 1: no key 'question'"),
        (("train.jsonl", "test.jsonl.gz"), "seems to be the split 'test'"),
        (("train.jsonl", "TEST.jsonl"), "seems to be the split 'test'"),
        (("train.jsonl", "gsm8k_test.jsonl"), "seems to be the split 'test'"),
        (("train.jsonl", "test/part.jsonl"), "seems to be the split 'test'"),
        (("own.jsonl", "test.tsv"), "seems to be the split 'test'"),
        (("train-00000-of-00002.parquet",), "train-00001-of-00002 is missing"),
        (("train-00000-of-00002.parquet", "train-00000-of-00001.parquet"), "is missing beside the others"),
        (("own.jsonl", "other.jsonl"), "unknown layout (it holds other.jsonl, own.jsonl)"),
        (("a-train-test.arrow",), "its name says two splits"),
    ],
)
def test_what_would_be_lost_is_named(names, said, tmp_path) -> None:
    assert said in refused("gsm8k", lay(tmp_path / "source", *names))


def test_what_is_about_data_is_no_data(tmp_path) -> None:
    names = ("train.jsonl", "test.jsonl", "train_socratic.jsonl", "dataset_info.json", "README.md", "test.py")
    report = get_task("gsm8k").prepare(str(lay(tmp_path / "source", *names)), tmp_path / "out")
    assert report["test"]["problems"] == 3 and report["left_out"] == ["train_socratic.jsonl"]


def test_the_whole_of_mmlu_stands_for_its_subjects(tmp_path) -> None:
    row = {"question": "Which?", "choices": CHOICES, "answer": 1}
    for folder in ("all", "anatomy"):
        write_jsonl(tmp_path / "mmlu" / folder / "test.jsonl", [{**row, "question": folder}])
    assert get_task("mmlu").prepare(str(tmp_path / "mmlu"), tmp_path / "first")["test"]["problems"] == 1
    write_jsonl(tmp_path / "mmlu" / "anatomy" / "dev.jsonl", [row])
    assert "name the folder that is meant" in refused("mmlu", tmp_path / "mmlu")


def test_a_split_beside_prepared_ones_is_not_lost(tmp_path) -> None:
    get_task("gsm8k").prepare(str(lay(tmp_path, "train.jsonl") / "train.jsonl"), tmp_path / "out", "train")
    for name in ("test.json", "test.jsonl"):
        lay(tmp_path / "out", name)
        with pytest.raises(DataError, match=rf"{name}: lies beside prepared problems"):
            get_task("gsm8k").splits(tmp_path / "out", 1, 1, 0)
        (tmp_path / "out" / name).unlink()
    assert get_task("gsm8k").splits(tmp_path / "out", 1, 1, 0).train


def test_a_pipe_in_place_of_a_file(tmp_path) -> None:
    (tmp_path / "source").mkdir()
    os.mkfifo(tmp_path / "source" / "train.jsonl")
    assert "no file that could be read" in refused("gsm8k", tmp_path / "source")


def test_what_is_generated_is_not_offered_for_preparing() -> None:
    from click.testing import CliRunner

    from hpcmaf.cli.data import prepare
    from hpcmaf.tasks.generated import Generated

    generated = {name for name in TASKS if isinstance(get_task(name), Generated)}
    assert generated == set(GENERATED)
    for name in generated:
        result = CliRunner().invoke(prepare, [name, "--source", "x"])
        assert result.exit_code == 2 and name not in result.output.split("is not one of")[1]


@pytest.mark.parametrize("value", ["NaN", '"nan"', '"NaN"', "null"])
def test_an_answer_that_is_not_a_number_is_no_answer(value, tmp_path) -> None:
    line = f'{{"question": "q", "answer": {value}}}\n{{"question": "r", "answer": "1"}}\n'
    for name in ("all", "test"):
        (tmp_path / f"{name}.jsonl").write_text(line)
    counts = get_task("jsonl").prepare(str(tmp_path / "all.jsonl"), tmp_path / "ok")["all"]
    assert (counts["problems"], counts["without_answer"]) == (2, 1)
    assert "line 1: no 'answer', which a test problem needs" in refused("jsonl", tmp_path / "test.jsonl")


@pytest.mark.parametrize(("task", "keys"), [("gsm8k", "question"), ("mmlu", "choices"), ("math", "problem")])
def test_other_tasks_refuse_it_where_they_need_one(task, keys, tmp_path) -> None:
    row = {keys: CHOICES if keys == "choices" else "q", "question": "q"}
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(row | {"answer": float("nan")}))
    assert "no key '" in refused(task, path)


def test_infinite_and_structured_answers_are_refused(tmp_path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"question": "q", "answer": -Infinity}')
    assert "'answer' is -inf, which is no number" in refused("jsonl", path)
    path.write_text('{"problem": "q", "answer": ["4"]}')
    assert "'answer' is a list, not text" in refused("math", path)
