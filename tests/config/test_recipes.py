"""The shipped recipes: each can be planned, says how to run it, and runs on a random model of its architecture."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from hpcmaf.config.load import load_recipe, shipped_recipes
from hpcmaf.config.profile import load_profile
from hpcmaf.config.recipe import Recipe, Training
from hpcmaf.launch.prepare import plan_run
from hpcmaf.run.directory import RunDir
from hpcmaf.study import load_study
from tests.tasks.conftest import gsm8k_rows, math_record, write_jsonl
from tests.tiny_models import tiny_model

RECIPES = Path(__file__).parents[2] / "recipes"
ARCHITECTURES = {"phi3-mini": "phi3", "mistral-7b": "mistral", "llama3-8b": "llama", "qwen2.5-1.5b": "qwen2"}
TASKS = ("arithmetic", "gsm8k", "math", "mmlu")
BIG = [name for name in shipped_recipes() if name.split("/")[1] in ARCHITECTURES]
STUDIES = sorted(path.stem for path in (RECIPES / "studies").glob("*.yaml"))
TRAIN, EVAL = 30, 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path | None]:
    """Small sources in the layout of each task."""
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", TRAIN), ("test", EVAL)):
        write_jsonl(root / "gsm8k" / f"{split}.jsonl", gsm8k_rows(split, count))
        records = [math_record(n, n % 3 + 1, f"{split} algebra") for n in range(count)]
        for n, record in enumerate(records):
            path = root / "math" / split / "algebra" / f"{n}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record))
    for split, count in (("val", TRAIN), ("test", EVAL)):
        path = root / "mmlu" / split / f"subject_{split}.csv"
        path.parent.mkdir(parents=True)
        path.write_text("".join(f'"{split} question {n}?",a{n},b,c,d,{"ABCD"[n % 4]}\n' for n in range(count)))
    return {"arithmetic": None} | {name: root / name for name in ("gsm8k", "math", "mmlu")}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A random model of each architecture."""
    root = tmp_path_factory.mktemp("bases")
    return {model: tiny_model(root / model, kind, context=4096) for model, kind in ARCHITECTURES.items()}


def small(name: str, data: Mapping[str, Path | None], bases: Mapping[str, Path]) -> list[str]:
    """Overrides that take the hub and the size out of a recipe, and leave its science."""
    task, model = name.split("/")
    overrides = [f"model.path={bases[model]}", f"task.train={TRAIN}", f"task.eval={EVAL}"]
    return overrides + ([f"task.source={data[task]}"] if data[task] else [])


def test_there_is_a_recipe_for_every_task_and_model() -> None:
    assert BIG == sorted(f"{task}/{model}" for task in TASKS for model in ARCHITECTURES)


@pytest.mark.slow
def test_every_recipe_can_be_planned(
    tmp_path: Path, data: Mapping[str, Path | None], bases: Mapping[str, Path]
) -> None:
    for name in BIG:
        recipe = load_recipe(name, small(name, data, bases))
        plan, drawn = plan_run(RunDir(tmp_path / name), recipe, load_profile("h100"))
        assert drawn is not None and len(drawn.train) == TRAIN and len(drawn.eval) == EVAL
        assert len(plan.stage("it05/finetune").tasks) == 6


@pytest.mark.parametrize("name", BIG)
def test_settings_are_the_papers(name: str) -> None:
    recipe = load_recipe(name)
    assert (recipe.task.train, recipe.task.eval, recipe.iterations, recipe.method) == (500, 500, 5, "maft")
    assert (recipe.debate.agents, recipe.debate.rounds, recipe.selection.w) == (3, 2, 0.5)
    assert recipe.sampling.model_dump(include={"temperature", "top_p", "max_new_tokens"}) == {
        "temperature": 1.0, "top_p": 0.9, "max_new_tokens": 2048
    }  # fmt: skip
    training = recipe.training
    assert (training.tuning, training.epochs, training.learning_rate) == ("full", 2, 1e-5)
    assert (training.batch_size, training.max_length, training.loss_on) == (192, 2048, "last_turn")
    assert recipe.task.levels == ([1, 2, 3] if name.startswith("math/") else None)


def test_the_readme_tells_of_everything_that_ships() -> None:
    text = (RECIPES / "README.md").read_text()
    whole = {name for name in shipped_recipes() if name not in BIG}
    assert set(re.findall(r"\[`([^`]+)`\]\(", text)) == {*whole, *TASKS, *ARCHITECTURES, *STUDIES}
    assert all((RECIPES / path).exists() for path in re.findall(r"\]\(([^)]+)\)", text))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_can_be_laid_out(name: str) -> None:
    study = load_study(name)
    roots = [entry.run.root for entry in study.runs]
    assert len(set(roots)) == len(roots) and all(entry.recipe.seed >= 0 for entry in study.runs)
    head = (RECIPES / "studies" / f"{name}.yaml").read_text().splitlines()[0]
    assert head.startswith(f"# hpcmaf study {name}")


@pytest.mark.slow
def test_a_recipe_runs_on_a_random_model_of_its_architecture(
    tmp_path: Path, data: Mapping[str, Path | None], bases: Mapping[str, Path]
) -> None:
    """To the table, at a size for a CPU; Mistral and Phi-3 do so in tests/run/test_agents, Llama everywhere."""
    name = "mmlu/qwen2.5-1.5b"
    words = [sys.executable, "-m", "hpcmaf", "submit", "--recipe", name, "--iters", "1", "--run", str(tmp_path / "run")]
    words += ["--method", "union-data"]  # debates of all agents, and one model to train
    size = ("task.train=4", "task.eval=2", "debate.agents=2", "sampling.max_new_tokens=24", "training.epochs=1")
    for override in (*small(name, data, bases), *size):
        words += ["--set", override]
    result = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    run = RunDir(tmp_path / "run")
    plan = run.load_plan()
    assert all(run.done(stage, task) for stage in plan.stages for task in stage.tasks)
    assert run.metrics(1).exists() and "debate" in result.stdout


def test_the_main_readme_tells_the_defaults_and_its_example_fits_them() -> None:
    text = (RECIPES.parent / "README.md").read_text()
    example = YAML(typ="safe").load(text.partition("# my-gsm8k.yaml\n")[2].partition("```")[0])
    recipe = Recipe.model_validate(example | {"name": "my-gsm8k"})
    assert (recipe.training.tuning, recipe.training.learning_rate) == ("lora", 1e-4)
    assert "`--set training.tuning=lora --set training.learning_rate=1e-4" in (RECIPES / "README.md").read_text()
    defaults = Training()
    assert defaults.tuning == "lora" and f"finetunes LoRA adapters\nin batches of {defaults.batch_size}," in text
    assert "Whatever a recipe leaves out has the paper's value" not in text
