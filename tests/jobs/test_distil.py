"""``distil`` on-policy: the one model learns from its own answers, weighted by how likely its society finds them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from hpcmaf.config.load import load_recipe
from hpcmaf.errors import ConfigError
from hpcmaf.selection.balance import likelihood_weights
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.data import TokenSample
from hpcmaf.training.process import Process
from hpcmaf.training.sft import Sft
from tests.jobs.playing import run_here, samples
from tests.tiny_models import answering_model, tiny_model


def test_weights_by_hand() -> None:
    assert likelihood_weights([math.log(0.1), math.log(0.3)]) == pytest.approx([0.5, 1.5])
    assert likelihood_weights([-2.0, -2.0, -2.0]) == [1.0, 1.0, 1.0]
    assert likelihood_weights([-5000.0]) == [1.0] and likelihood_weights([]) == []


def test_a_weighted_sample_counts_so_often(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = tiny_model(tmp_path / "base")
    model, process = AutoModelForCausalLM.from_pretrained(base).eval(), Process(0, 1, torch.device("cpu"))
    job = FinetuneJob(base=str(base), dataset="", output="", device="cpu")
    plain = [TokenSample(name, [3, 5, one, 2], [False, False, True, True]) for name, one in (("a", 7), ("b", 9))]
    weighted = [TokenSample(one.id, one.input_ids, one.target, weight) for one, weight in zip(plain, (0.5, 1.5))]
    objective = Sft(model, job, process, plain, packed=False)
    apart = [objective.loss([one], one) for one in plain]
    torch.testing.assert_close(objective.loss(weighted, weighted[0]), 0.5 * apart[0] + 1.5 * apart[1])


@pytest.mark.slow
def test_an_iteration(tmp_path: Path) -> None:
    base = answering_model(tmp_path / "base", "245", context=4096)
    words = ["method=distil", "selection.on_policy=3", f"model.path={base}", "task.prompts=default", "iterations=2"]
    words += ["task.train=6", "task.eval=2", "debate.agents=2", "sampling.max_new_tokens=6", "training.max_length=4096"]
    words += ["training.learning_rate=0.001"]
    run, datasets = run_here(tmp_path / "run", *words), {}
    for t in (1, 2):
        lines = datasets[t] = samples(run.data(t) / "single-own.jsonl")
        assert len(lines) == run.learned(t)["datasets"]["single"]["samples"] > 6
        by_problem: dict[str, list[float]] = {}
        for line in lines:
            by_problem.setdefault(line["problem_id"], []).append(line["weight"])
            assert [turn["role"] for turn in line["messages"]] == ["user", "assistant"]
        for weights in by_problem.values():
            assert sum(weights) == pytest.approx(len(weights))
        # Trained a little, it may say the same thing every time.
        assert t > 1 or any(len(set(weights)) > 1 for weights in by_problem.values())
        rows = [row for row in json.loads(run.ledger(t).read_text())["rows"] if row["agent"] == "single"]
        assert {"finetune": 18}.items() <= {row["stage"]: row["calls"] for row in rows if row["calls"]}.items()
    assert datasets[1] != datasets[2]


def test_it_is_of_distil_alone_and_compares_answers() -> None:
    for words in (["selection.on_policy=4"], ["method=distil", "selection.on_policy=1"]):
        with pytest.raises(ConfigError, match=r"selection\.on_policy: compares 2 or more"):
            load_recipe(overrides=words)
    assert "on_policy" not in load_recipe(overrides=["method=distil"]).model_dump()["selection"]
