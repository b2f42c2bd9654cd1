"""Hub data sets, through the real client on local folders."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpcmaf.errors import DataError, PlatformError
from hpcmaf.tasks import get_task
from hpcmaf.tasks.readers import read_hub
from tests.tasks.conftest import gsm8k_rows, math_record, write_jsonl


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def test_the_real_client_reads_a_folder(tmp_path) -> None:
    folder = tmp_path / "set"
    for split, count in (("train", 5), ("test", 3)):
        write_jsonl(folder / f"{split}.jsonl", gsm8k_rows(split, count))
    rows = list(read_hub(str(folder), ("main",), None))
    parse = get_task("gsm8k").parse
    assert [parse(row).id for row in rows if row.split == "test"] == [f"gsm8k-test-{n:05d}" for n in range(3)]
    assert [parse(row).gold for row in rows if row.split == "train"] == ["1000", "1001", "1002", "1003", "1004"]


def test_the_real_client_fails_in_one_line() -> None:
    with pytest.raises(DataError) as caught:
        list(read_hub("nobody/there-is-no-such-data-set", (), None))
    assert "neither a path here nor to be had from the hub" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("listening", [True, False], ids=["silent", "refusing"])
def test_a_hub_that_cannot_be_reached_is_one_line_within_seconds(listening: bool) -> None:
    code = """
import time
from hpcmaf.errors import HpcmafError
from hpcmaf.launch.basecheck import check_base
from hpcmaf.config.recipe import Model
from hpcmaf.tasks.readers import read_hub
import huggingface_hub.hf_api
for ask in (lambda: check_base(Model(path="some/model")), lambda: list(read_hub("some/problems", (), None))):
    began = time.monotonic()
    try:
        ask()
    except HpcmafError as error:
        print(error.exit_code, round(time.monotonic() - began, 1), error)
"""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listening:  # connections are taken by the kernel, and nobody ever answers
            server.listen()
        environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}", "HF_HUB_OFFLINE": "0"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["3", "4"], done
    assert all(float(line.split()[1]) < 5 and "from the hub (" in line for line in lines), lines
    assert not done.stderr


class Hub:
    """Stands in for ``datasets`` where only the hub itself would answer."""

    def __init__(self, sets: dict[str, dict[str, list[dict]]]) -> None:
        self.sets = sets
        self.asked: list[str] = []

    def module(self) -> SimpleNamespace:
        return SimpleNamespace(get_dataset_config_names=lambda name: list(self.sets), load_dataset=self.load)

    def load(self, name: str, config: str) -> dict[str, list[dict]]:
        self.asked.append(config)
        return self.sets[config]


def prepare(hub: Hub, task: str, out: Path, monkeypatch, split: str | None = None):
    monkeypatch.setitem(sys.modules, "datasets", hub.module())
    monkeypatch.setattr("hpcmaf.tasks.readers.ask_hub", lambda question: None)
    return get_task(task).prepare("owner/name", out, split)


def test_the_main_configuration_is_preferred(tmp_path, monkeypatch) -> None:
    rows = {"train": gsm8k_rows("train", 4), "test": gsm8k_rows("test", 2)}
    hub = Hub({"socratic": rows, "main": rows})
    report = prepare(hub, "gsm8k", tmp_path / "out", monkeypatch)
    assert hub.asked == ["main"]
    assert (report["train"]["problems"], report["test"]["problems"]) == (4, 2)


def test_subjects_are_configurations_of_math(tmp_path, monkeypatch) -> None:
    hub = Hub(
        {
            name: {"train": [math_record(n, 1, name) for n in range(3)], "test": [math_record(9, 2, name)]}
            for name in ("algebra", "geometry")
        }
    )
    report = prepare(hub, "math", tmp_path / "out", monkeypatch)
    assert (report["train"]["problems"], report["test"]["problems"]) == (6, 2)
    splits = get_task("math").splits(tmp_path / "out", 6, 2, 0)
    assert {problem.id for problem in splits.eval} == {"math-test-algebra-00000", "math-test-geometry-00000"}


def test_mmlu_leaves_the_auxiliary_training_split(tmp_path, monkeypatch) -> None:
    def row(question: str) -> dict:
        return {"question": question, "subject": "law", "choices": ["a", "b", "c", "d"], "answer": 3}

    hub = Hub(
        {
            "all": {
                "auxiliary_train": [row("other data")],
                "test": [row("t")],
                "validation": [row("v")],
                "dev": [row("d")],
            },
            "law": {},
        }
    )
    report = prepare(hub, "mmlu", tmp_path / "out", monkeypatch)
    assert hub.asked == ["all"]
    assert (report["train"]["problems"], report["test"]["problems"]) == (2, 1)


def test_a_single_split_of_another_name(tmp_path, monkeypatch) -> None:
    hub = Hub({"default": {"everything": gsm8k_rows("x", 6)}})
    with pytest.raises(DataError, match=r"owner/name: its splits are called everything; pass --split"):
        prepare(hub, "gsm8k", tmp_path / "out", monkeypatch)
    assert prepare(hub, "gsm8k", tmp_path / "out", monkeypatch, "test")["test"]["problems"] == 6


def test_without_the_client_the_extra_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr("hpcmaf.tasks.readers.ask_hub", lambda question: None)
    with pytest.raises(PlatformError, match=r"openai/gsm8k: reading it needs datasets; .* pip install 'hpcmaf\[hub\]'"):
        get_task("gsm8k").prepare("openai/gsm8k", tmp_path / "out")


def test_importing_the_readers_loads_no_client() -> None:
    code = "import sys, hpcmaf.tasks.sources, hpcmaf.cli.data; print({'datasets', 'pyarrow', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
