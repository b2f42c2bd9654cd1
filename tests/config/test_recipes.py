"""The shipped recipes: each can be planned, and says how to run it."""

from __future__ import annotations

import re
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
from tests.tasks.conftest import gsm8k_rows, lay, math_record

RECIPES = Path(__file__).parents[2] / "recipes"
MODELS = ("phi3-mini", "mistral-7b", "llama3-8b", "qwen2.5-1.5b")
TASKS = ("arithmetic", "gsm8k", "math", "mmlu")
BIG = [name for name in shipped_recipes() if name.split("/")[1] in MODELS]
STUDIES = sorted(path.stem for path in (RECIPES / "studies").glob("*.yaml"))
TRAIN, EVAL = 30, 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path | None]:
    """Small sources in the layout of each task."""
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", TRAIN), ("test", EVAL)):
        records = {f"math/{split}/algebra/{n}.json": math_record(n, n % 3 + 1, f"{split} algebra") for n in range(count)}
        choices = [[f"{split} question {n}?", f"a{n}", *"bcd", "ABCD"[n % 4]] for n in range(count)]
        mmlu = f"mmlu/{split}/subject_{split}.csv".replace("train", "val")
        lay(root, {f"gsm8k/{split}.jsonl": gsm8k_rows(split, count), mmlu: choices} | records)
    return {"arithmetic": None} | {name: root / name for name in ("gsm8k", "math", "mmlu")}


def test_there_is_a_recipe_for_every_task_and_model() -> None:
    assert BIG == sorted(f"{task}/{model}" for task in TASKS for model in MODELS)


@pytest.mark.parametrize("name", BIG)
def test_every_recipe_can_be_planned(name: str, tmp_path: Path, data: Mapping[str, Path | None]) -> None:
    """With the hub and the size taken out of it, and its science left."""
    source = data[name.split("/")[0]]
    overrides = ["model.path=micro", f"task.train={TRAIN}", f"task.eval={EVAL}"]
    recipe = load_recipe(name, overrides + ([f"task.source={source}"] if source else []))
    plan, drawn = plan_run(RunDir(tmp_path / "run"), recipe, load_profile("h100"))
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
    assert set(re.findall(r"\[`([^`]+)`\]\(", text)) == {*whole, *TASKS, *MODELS, *STUDIES}
    assert all((RECIPES / path).exists() for path in re.findall(r"\]\(([^)]+)\)", text))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_can_be_laid_out(name: str) -> None:
    study = load_study(name)
    roots = [entry.run.root for entry in study.runs]
    assert len(set(roots)) == len(roots) and all(entry.recipe.seed >= 0 for entry in study.runs)
    head = (RECIPES / "studies" / f"{name}.yaml").read_text().splitlines()[0]
    assert head.startswith(f"# hpcmaf study {name}")


def test_the_main_readme_tells_the_defaults_and_its_example_fits_them() -> None:
    text = (RECIPES.parent / "README.md").read_text()
    example = YAML(typ="safe").load(text.partition("# my-gsm8k.yaml\n")[2].partition("```")[0])
    recipe = Recipe.model_validate(example | {"name": "my-gsm8k"})
    assert (recipe.training.tuning, recipe.training.learning_rate) == ("lora", 1e-4)
    assert "`--set training.tuning=lora --set training.learning_rate=1e-4" in (RECIPES / "README.md").read_text()
    defaults = Training()
    assert defaults.tuning == "lora" and f"finetunes LoRA adapters\nin batches of {defaults.batch_size}," in text
    assert "Whatever a recipe leaves out has the paper's value" not in text
