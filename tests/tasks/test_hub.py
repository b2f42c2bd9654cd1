"""Hub data sets, through the real client on local folders that describe themselves as the hub's do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hpcmaf.errors import DataError, PlatformError
from hpcmaf.tasks import get_task
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.readers import read_hub
from tests.tasks.conftest import gsm8k_rows, lay


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def load(task: str, folder: Path, sets: dict[str, dict[str, list[dict]]]) -> dict[str, list[Problem]]:
    """Lay out a data set of configurations and splits, and read it as one of the hub."""
    card = "---\nconfigs:\n"
    for config, splits in sets.items():
        card += f"- config_name: {config}\n  data_files:\n"
        for name, rows in splits.items():
            lay(folder, {f"{config}/{name}.jsonl": rows})
            card += f"  - {{split: {name}, path: {config}/{name}.jsonl}}\n"
    (folder / "README.md").write_text(card + "---\n")
    found = get_task(task)
    return found.collect(read_hub(str(folder), found.configs))[0]


def test_the_main_configuration_is_preferred(tmp_path) -> None:
    main = {"train": gsm8k_rows("train", 4), "test": gsm8k_rows("test", 2)}
    pools = load("gsm8k", tmp_path, {"socratic": {"train": gsm8k_rows("other", 3)}, "main": main})
    assert [problem.id for problem in pools["test"]] == ["gsm8k-test-00000", "gsm8k-test-00001"]
    assert [problem.gold for problem in pools["train"]] == ["1000", "1001", "1002", "1003"]


def test_mmlu_leaves_the_auxiliary_training_split(tmp_path) -> None:
    def row(question: str) -> dict:
        return {"question": question, "subject": "law", "choices": ["a", "b", "c", "d"], "answer": 3}

    names = ("auxiliary_train", "test", "validation", "dev")
    pools = load("mmlu", tmp_path, {"all": {name: [row(name)] for name in names}, "law": {"test": [row("other")]}})
    assert {name: len(pool) for name, pool in pools.items()} == {"test": 1, "validation": 1, "dev": 1}


def test_splits_of_other_names_are_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"its splits are called everything, more; download it"):
        load("gsm8k", tmp_path, {"default": {"everything": gsm8k_rows("x", 6), "more": gsm8k_rows("y", 2)}})


@pytest.mark.parametrize("listening", [True, False], ids=["silent", "refusing"])
def test_a_hub_that_cannot_be_reached_is_one_line_within_seconds(listening: bool) -> None:
    code = """
import time
from hpcmaf.errors import HpcmafError
from hpcmaf.launch.prepare import check_base
from hpcmaf.config.recipe import Model
from hpcmaf.tasks.readers import read_hub
import huggingface_hub.hf_api
for ask in (lambda: check_base(Model(path="some/model")), lambda: list(read_hub("some/problems", ()))):
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


def test_without_the_client_the_extra_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PlatformError, match=r"reading it needs datasets; .* pip install 'hpcmaf\[hub\]'"):
        load("gsm8k", tmp_path, {"main": {"train": gsm8k_rows("train", 1)}})
