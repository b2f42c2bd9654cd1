"""Taking an agent out of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import load_profile
from hpcmaf.errors import DataError, UsageError
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.micro import base_path
from hpcmaf.run.directory import RunDir
from tests.commands import invoke
from tests.tiny_models import tiny_adapter


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., RunDir]:
    """``make(*overrides)``: a planned run; iterations 1 and 2 have data of critic-1, iteration 1 its model."""

    def made(*overrides: str) -> RunDir:
        run = RunDir(tmp_path / "run")
        prepare_run(run, load_recipe(overrides=("task.train=4", "task.eval=4", *overrides)), load_profile())
        run.agent(1, "critic-1").mkdir(parents=True)
        (run.agent(1, "critic-1") / "weights").write_text("critic-1")
        for t in (1, 2):
            run.data(t).mkdir(parents=True)
            run.dataset(t, "critic-1").write_text(f'{{"messages": [], "t": {t}}}\n')
        return run

    return made


def test_an_adapter_is_the_runs_own(make: Callable[..., RunDir], tmp_path: Path) -> None:
    run, out = make(), tmp_path / "of critic 1"
    assert "adapter of iteration 1" in invoke("export", run.root, "--agent", "critic-1", "--out", out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {"weights": "critic-1"}
    assert (run.agent(1, "critic-1") / "weights").exists()


def test_training_sets_of_all_iterations_or_one(make: Callable[..., RunDir], tmp_path: Path) -> None:
    run = make()
    invoke("export", run.root, "--agent", "critic-1", "--as", "data", "--out", tmp_path / "all")
    found = {path.name: json.loads(path.read_text())["t"] for path in (tmp_path / "all").iterdir()}
    assert found == {"it01-critic-1.jsonl": 1, "it02-critic-1.jsonl": 2}
    invoke("export", run.root, "--agent", "critic-1", "--as", "data", "--iter", "2", "--out", tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["it02-critic-1.jsonl"]


def test_a_full_finetunings_checkpoint_is_the_model(make: Callable[..., RunDir], tmp_path: Path) -> None:
    run = make("training.tuning=full")
    invoke("export", run.root, "--agent", "critic-1", "--as", "model", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "weights").read_text() == "critic-1"
    with pytest.raises(UsageError, match="no adapter; export it with --as model"):
        invoke("export", run.root, "--agent", "critic-1", "--out", tmp_path / "other")


@pytest.mark.parametrize(
    ("overrides", "words", "error", "told"),
    [
        ((), ["--agent", "critic-7"], UsageError, "not one that the run trains; they are generator-0, generator-1"),
        ((), ["--agent", "generator-0"], DataError, "generator-0 has no model; iterations that have one: none yet"),
        ((), ["--agent", "critic-1", "--iter", "2"], DataError, "no model of iteration 2; iterations that have one: 1"),
        ((), ["--agent", "critic-2", "--as", "data"], DataError, "critic-2 has no training set; "),
        (("method=debate",), ["--agent", "critic-1"], DataError, "method debate trains no agent"),
        ((), [], UsageError, "--agent: missing; name an agent"),
        ((), ["--as", "society-in-one", "--agent", "critic-1"], UsageError, "--agent: a society has many"),
        ((), ["--as", "society-in-one"], DataError, "no debates on training problems; "),
        (("method=debate",), ["--as", "society-in-one"], DataError, "method debate trains no agent"),
        (("method=star",), ["--as", "society-in-one"], UsageError, "holds no debates; export its model with --agent"),
    ],
)
def test_what_there_is_not(
    make: Callable[..., RunDir],
    tmp_path: Path,
    overrides: tuple[str, ...],
    words: list[str],
    error: type[Exception],
    told: str,
) -> None:
    run = make(*overrides)
    with pytest.raises(error, match=told):
        invoke("export", run.root, *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(make: Callable[..., RunDir], tmp_path: Path) -> None:
    run = make()
    with pytest.raises(UsageError, match="exists and is not an empty folder"):
        invoke("export", run.root, "--agent", "critic-1", "--out", run.root)
    (tmp_path / "empty").mkdir()
    invoke("export", run.root, "--agent", "critic-1", "--out", tmp_path / "empty")


@pytest.mark.slow
def test_a_merged_model_answers_as_the_agent_did(make: Callable[..., RunDir], tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run, out = make(), tmp_path / "merged"
    (run.agent(1, "critic-1") / "weights").unlink()
    adapter = tiny_adapter(base_path(), run.agent(1, "critic-1"), seed=3)
    invoke("export", run.root, "--agent", "critic-1", "--as", "model", "--out", out)
    ids = torch.tensor([[1, 3, 5, 7]])
    base = AutoModelForCausalLM.from_pretrained(base_path())
    plain = base(ids).logits.detach()
    agent = PeftModel.from_pretrained(base, adapter)(ids).logits
    merged = AutoModelForCausalLM.from_pretrained(out)(ids).logits
    torch.testing.assert_close(merged, agent, rtol=1e-4, atol=1e-4)
    assert (merged - plain).abs().max() > 0.1 and not list(out.glob("adapter*"))
