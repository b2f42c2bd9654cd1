"""The packaged model and the loop that makes it."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcmaf.cli.micro import command
from hpcmaf.errors import DataError, PlatformError, UsageError
from hpcmaf.micro import base_path
from hpcmaf.micro.corpus import debate_lines
from hpcmaf.micro.evaluate import Score, majority, result_of, style_of
from hpcmaf.micro.styles import NOISE, Author, Expression
from hpcmaf.micro.tokenizer import TARGET, encode
from hpcmaf.micro.train import Making, learning_rate_factor


def test_weights_are_packaged_and_small() -> None:
    names = {path.name for path in base_path().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pickle")) for name in names)
    assert sum(path.stat().st_size for path in base_path().iterdir()) < 10e6


def test_defaults_are_those_of_the_packaged_model() -> None:
    from dataclasses import asdict

    made = json.loads((base_path() / "making.json").read_text())
    assert made["making"] == asdict(Making())
    assert made["noise"] == json.loads(json.dumps(asdict(NOISE)))


def test_scores_and_votes() -> None:
    assert Score.of([True, False, True, True]) == Score(0.75, math.sqrt(0.75 * 0.25 / 4))
    assert result_of("p1;q2#-31") == -31
    assert result_of("p1;q2#-31;") is None and result_of("12*3=36;4+36=40") is None
    assert majority([1, None, 2, 2], 0) == 2
    assert majority([None, None], 0) is None
    assert {majority([1, 2, 3], seed) for seed in range(60)} == {1, 2, 3}


def test_styles_are_told_apart() -> None:
    author, rng = Author(), random.Random(0)
    expression = Expression(1, 12, 13, 4, 5, 6)
    assert [style_of(author.solve(expression, style, rng).text, expression) for style in range(3)] == [0, 1, 2]
    assert style_of("7", expression) is None


def test_learning_rate_rises_then_falls() -> None:
    factors = [learning_rate_factor(step / 1000) for step in range(1000)]
    peak = factors.index(max(factors))
    assert 0 < factors[0] < 0.05 and abs(factors[peak] - 1) < 1e-6 and 10 < peak < 30
    assert all(one >= two for one, two in zip(factors[peak:], factors[peak + 1 :], strict=False))
    assert 0.01 < factors[-1] < 0.03


def test_commands_refuse_what_cannot_be(tmp_path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    for arguments, expected in (
        (["train", "--out", str(tmp_path / "full")], UsageError),
        (["score", str(tmp_path / "nothing")], DataError),
    ):
        result = CliRunner().invoke(command, arguments)
        assert isinstance(result.exception, expected)
        assert "\n" not in str(result.exception)


@pytest.mark.slow
def test_the_template_and_the_quick_encoder_agree() -> None:
    """Corpus lines are, token for token, what a run's chats are."""
    from hpcmaf.engines.chat import ChatFormat

    chat = ChatFormat.from_pretrained(str(base_path()))
    author, rng = Author(), random.Random(1)
    assert len(chat.end_of_turn) == 1
    for _ in range(60):
        for turns in debate_lines(author, rng):
            messages = [{"role": "assistant" if at % 2 else "user", "content": turn} for at, turn in enumerate(turns)]
            sample, line = chat.sample(messages, "all_turns"), encode(turns)
            assert sample.input_ids == (line % TARGET).tolist()
            assert sample.target == (line >= TARGET).tolist()
            prompt = chat.prompt_ids(messages[:-1])
            assert prompt == sample.input_ids[: len(prompt)]
            assert prompt.count(chat.tokenizer.bos_token_id) == 1
            assert chat.decode(sample.input_ids[len(prompt) :]) == turns[-1]


@pytest.mark.slow
def test_the_network_is_transformers_own() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from hpcmaf.micro.network import logits_of, loss_sum, weights_of

    model = AutoModelForCausalLM.from_pretrained(base_path()).eval()
    ids = torch.randint(6, 27, (3, 80), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = model(input_ids=ids).logits
        ours = logits_of(weights_of(model), ids, 4, torch.float32)
        assert torch.allclose(theirs, ours, atol=1e-3, rtol=1e-3)
        batch = ids.to(torch.uint8)
        batch[:, 40:] += TARGET
        expected = torch.nn.functional.cross_entropy(theirs[:, 39:-1].reshape(-1, 27), ids[:, 40:].reshape(-1))
        found = loss_sum(weights_of(model), batch, 4, torch.float32) / 120
        assert torch.allclose(found, expected, rtol=1e-3)


@pytest.mark.slow
def test_the_packaged_model_is_usefully_imperfect() -> None:
    """One answer between 35% and 65%; wide margins, for 60 problems have a standard error of 6 points."""
    result = CliRunner().invoke(command, ["score", "--problems", "60", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout.strip().splitlines()[-1])
    assert 0.35 <= row["one_answer"]["value"] <= 0.80
    assert row["debate"]["value"] >= row["one_answer"]["value"]
    assert row["styles"] > 1.7
    assert row["summaries_right"] > 0.95
    assert row["unfinished"] < 0.05


@pytest.mark.slow
def test_training_from_nothing_lowers_the_loss_and_loads(tmp_path, monkeypatch) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hpcmaf.micro import corpus
    from hpcmaf.micro.train import save_model, train

    monkeypatch.setattr(corpus.steps, "__defaults__", (NOISE, (corpus.Rows(96, 16, 1), corpus.Rows(192, 4, 1))))
    rows: list[dict] = []
    making = Making(steps=40, learning_rate=5e-3, hidden=32, layers=1, heads=1, inner=64, chunk_steps=4)
    model = train(making, report=rows.append, every=13)
    assert [row["step"] for row in rows] == [0, 13, 26, 39]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.3
    save_model(model, tmp_path / "a model", making)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "a model")
    assert all((one == two).all() for one, two in zip(model.parameters(), loaded.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(tmp_path / "a model").chat_template
    assert not list(Path(tmp_path).glob("*.tmp"))


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_named() -> None:
    import torch

    from hpcmaf.micro.train import device_named

    assert device_named("cpu") == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(PlatformError, match="no GPU"):
            device_named("cuda")
