"""The packaged micro model, and the scripts beside the results that made it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from hpcmaf.micro import base_path
from hpcmaf.tasks.generated import side
from hpcmaf.tasks.prompts import compact_prompts
from results.micro_model.corpus import Rows, debate_lines, draw
from results.micro_model.make import Making
from results.micro_model.styles import NOISE, Author
from results.micro_model.tokenizer import TARGET, encode

ROOT = Path(__file__).parents[2]


# --- the package ------------------------------------------------------------


def test_weights_are_packaged_and_small() -> None:
    names = {path.name for path in base_path().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pickle")) for name in names)
    assert sum(path.stat().st_size for path in base_path().iterdir()) < 10e6


def test_defaults_are_those_of_the_packaged_model() -> None:
    made = json.loads((base_path() / "making.json").read_text())
    assert made["making"] == asdict(Making())
    assert made["noise"] == json.loads(json.dumps(asdict(NOISE)))


# --- the corpus -------------------------------------------------------------


def test_lines_are_debates_in_the_prompts_of_a_run_and_of_its_training_side() -> None:
    rng, author, prompts, kinds = random.Random(3), Author(NOISE), compact_prompts(), set()
    for _ in range(200):
        for turns in debate_lines(author, rng):
            assert len(turns) % 2 == 0
            question, *answers = turns[0].split("|")
            assert side(question.rstrip("=")) == "train"
            if answers or "|" in turns[0]:
                assert turns[0] == prompts.render("summarize", question, answers)
                kinds.add("summary")
            else:
                assert turns[0] == prompts.render("first", turns[0])
                kinds |= {"update" if turn[0] == "~" else "without" for turn in turns[2::2]}
    assert kinds == {"summary", "update", "without"}
    assert {side(draw(rng).text) for _ in range(200)} == {"train"}


# --- the training -----------------------------------------------------------


@pytest.mark.slow
def test_the_template_and_the_quick_encoder_agree() -> None:
    """Corpus lines are, token for token, what a run's chats are."""
    from hpcmaf.models.chat import ChatFormat

    chat, author, rng = ChatFormat.from_pretrained(str(base_path())), Author(), random.Random(1)
    for turns in (turns for _ in range(60) for turns in debate_lines(author, rng)):
        messages = [{"role": "assistant" if at % 2 else "user", "content": turn} for at, turn in enumerate(turns)]
        sample, line = chat.sample(messages, "all_turns"), encode(turns)
        assert sample.input_ids == (line % TARGET).tolist()
        assert sample.target == (line >= TARGET).tolist()
        prompt = chat.prompt_ids(messages[:-1])
        assert prompt == sample.input_ids[: len(prompt)]
        assert chat.decode(sample.input_ids[len(prompt) :]) == turns[-1]


@pytest.mark.slow
def test_training_from_nothing_lowers_the_loss_and_loads(tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from results.micro_model.make import save_model, train

    rows: list[dict] = []
    making = Making(steps=40, learning_rate=5e-3, hidden=32, layers=1, heads=1, inner=64, chunk_steps=4)
    shapes = (Rows(96, 16, 1), Rows(192, 4, 1))
    model = train(making, shapes=shapes, report=rows.append, every=13)
    assert [row["step"] for row in rows] == [0, 13, 26, 39]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.3
    save_model(model, tmp_path / "a model", making)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "a model")
    assert all((one == two).all() for one, two in zip(model.parameters(), loaded.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(tmp_path / "a model").chat_template


# --- the script that scores -------------------------------------------------


@pytest.mark.slow
def test_the_packaged_model_is_usefully_imperfect() -> None:
    """Wide margins, for 60 problems have a standard error of 6 points."""
    command = [sys.executable, "-m", "results.micro_model.score", "--problems", "60"]
    row = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    assert 0.35 <= row["accuracy"]["answer"]["value"] <= 0.80
    assert row["accuracy"]["vote@M"]["value"] >= row["accuracy"]["answer"]["value"]
    assert row["styles"] > 1.7
    assert row["summaries_right"] > 0.95
    assert row["unfinished"] < 0.05
