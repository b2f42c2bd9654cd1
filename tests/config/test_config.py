"""Recipes and profiles: strict, one line for every mistake; the shipped ones can be planned and say how to run them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from hpcmaf.config.load import load_recipe, shipped_recipes
from hpcmaf.config.profile import load_profile
from hpcmaf.config.recipe import Recipe, Training
from hpcmaf.errors import ConfigError
from hpcmaf.launch.prepare import plan_run
from hpcmaf.run.directory import RunDir
from hpcmaf.study.plan import load_study
from tests.tasks.conftest import gsm8k_rows, lay, math_record


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(overrides=overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("debate.agents=0", ["debate.agents", "greater than or equal to 1", "not 0"]),
        ("selection.w=1.5", ["selection.w", "not 1.5", "between 0 and 1"]),
        ("debate.agnts=3", ["debate.agnts", "unknown key", "did you mean 'agents'"]),
        ("colour=red", ["colour", "unknown key", "known here", "model"]),
        ("training.learning_rate=fast", ["training.learning_rate", "not 'fast'"]),
        ("training.learning_rate=.inf", ["training.learning_rate", "finite"]),
        ("training.zero_stage=4", ["training.zero_stage", "0 to 3"]),
        ("debate.agents=true", ["debate.agents", "integer", "not True"]),
        ("method=magic", ["method: should be ", "'maft'", "not 'magic'"]),
        ("model=null", ["model", "not None"]),
        ("debate.agents=1", ["debate.rounds", "one agent cannot debate"]),
        ("debate.agents=[1", ["--set debate.agents", "not valid YAML"]),
        ("debate.agents", ["expected key=value"]),
        ("name.first=x", ["'name' is a plain value"]),
        ("name=a/b", ["name", "letters, digits"]),
        ("debate.listen=3", ["debate.listen: 3 is more than the other agents"]),
        ("debate.listen=some", ["debate.listen", "'some'"]),
        ("iterations={auto: x}", ["iterations", "valid integer"]),
        ("training.lora.targets=[1]", ["training.lora.targets.0", "valid string", "not 1"]),
        ("training.lora=3", ["training.lora", "should hold keys (rank, alpha, dropout, targets), not 3"]),
        ("seed=0x" + "f" * 50, ["--set seed", "more than 64 bits"]),
        ("training.weight_decay=1e300", ["--set training.weight_decay", "more than 64 bits"]),
        ("description=2024-01-01", ["--set description", "a date", "put it in quotes"]),
        ("description=2024-99-99", ["--set description", "not valid YAML (month must be in 1..12)"]),
        ('description="\\0"', ["--set description", "a character that no text has"]),
        ("debate={1: 2}", ["--set debate", "the key 1 is no text"]),
        ("description=&a [*a]", ["--set description", "nested without end"]),
        ("model.date='2025-02-30'", ["model.date", "'2025-02-30' is no day"]),
        ("sampling.thinking_tokens=9999", ["sampling", "leaves no room for an answer; set it below max_new_tokens"]),
        ("selection.cut_off=maybe", ["selection.cut_off", "'drop' or 'keep'"]),
    ],
)
def test_a_wrong_value_is_named(override: str, words: list[str]) -> None:
    message = refused(override)
    for word in words:
        assert word in message
    assert "recipes/arithmetic/micro.yaml" in message or "--set" in message


def write(folder: Path, text: str) -> str:
    path = folder / "r.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: {path: x}\nseed: 1\nseed: 2\n", ["line 3", 'duplicate key "seed"']),
        ("model: [\n", ["not valid YAML"]),
        ("- a\n- b\n", ["holds a list"]),
        ("seed: 1\n", ["model: missing"]),
        ("model: {}\ntask: {name: math}\n", ["model.path: missing", "folder"]),
        ("a.b: 1\nmodel: {path: x}\ntask: {name: math}\n", ["a.b: unknown key"]),
        ("1: x\n", ["the key 1 is no text"]),
        (
            "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{b}, *{b}]\n" for b, c in pairwise("abcdefghijklmnopqrstuvw")),
            ["nested"],
        ),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_aliases_that_end_are_fine(tmp_path: Path) -> None:
    text = "model: {path: x}\ntask: &t {name: math, prompts: &p default}\nevaluate_on: {name: gsm8k, prompts: *p}\n"
    assert load_recipe(write(tmp_path, text)).evaluation.prompts == "default"


def test_files_that_are_not_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_recipe(str(tmp_path / "b.yaml"))
    with pytest.raises(
        ConfigError, match="neither a file nor a shipped recipe; shipped are arithmetic/llama3-8b, arithmetic/micro"
    ):
        load_recipe("nowhere")
    with pytest.raises(ConfigError, match="neither a file nor a shipped profile; shipped are .*h100, local"):
        load_profile("nowhere")


def test_overrides_and_iters_win_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "model: {path: x}\ntask: {name: math}\niterations: 7\n")
    recipe = load_recipe(path)
    assert (recipe.name, recipe.iterations, recipe.debate.agents, recipe.selection.w) == ("r", 7, 3, 0.5)
    recipe = load_recipe(path, ["iterations=3", "debate.agents=5", "debate.agents=4", "task.levels=[1,2]"], 2)
    assert (recipe.iterations, recipe.debate.agents, recipe.task.levels) == (2, 4, [1, 2])
    recipe = load_recipe(path, ["training.learning_rate=1e-4"])
    assert recipe.training.learning_rate == 1e-4, "which YAML 1.1 takes for text"


def check_settings_of_the_paper(recipe: Recipe) -> None:
    assert (recipe.task.train, recipe.task.eval, recipe.iterations, recipe.method) == (500, 500, 5, "maft")
    assert (recipe.debate.agents, recipe.debate.rounds, recipe.selection.w) == (3, 2, 0.5)
    assert (recipe.sampling.temperature, recipe.sampling.top_p, recipe.sampling.max_new_tokens) == (1.0, 0.9, 2048)
    assert (recipe.training.epochs, recipe.training.learning_rate, recipe.training.loss_on) == (2, 1e-5, "last_turn")


def test_the_papers_settings_are_the_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "model: {path: x}\ntask: {name: math}\n"))
    check_settings_of_the_paper(recipe)
    assert (recipe.selection.mix, recipe.training.start_from) == ("exact", "previous")
    assert not recipe.model.trust_remote_code


def test_halves_are_put_together_by_name() -> None:
    recipe = load_recipe("math/llama3-8b", ["training.tuning=lora"])
    assert (recipe.name, recipe.task.source) == ("math-llama3-8b", "data/math")
    assert (recipe.model.path, recipe.training.tuning) == ("meta-llama/Meta-Llama-3-8B-Instruct", "lora")
    with pytest.raises(ConfigError, match=r"models/llama3-8b.yaml \+ .*tasks/math.yaml .with --set.: debate.agents"):
        load_recipe("math/llama3-8b", ["debate.agents=0"])
    for name in ("llama3-8b/math", "math/gpt", "chess/llama3-8b", "math"):
        with pytest.raises(ConfigError, match="neither a file nor a shipped recipe"):
            load_recipe(name)


def test_profile_overrides() -> None:
    profile = load_profile("local", ["jobs=3", "generation.batch_size=7"])
    assert (profile.slots(), profile.generation.batch_size) == (3, 7)
    with pytest.raises(ConfigError, match="generation.engine"):
        load_profile("local", ["generation.engine=magic"])


def test_a_chat_template_is_read_from_its_file(tmp_path: Path) -> None:
    """And kept: a run does not change with the file."""
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    model = "{path: x, chat_template: t.jinja, chat_template_kwargs: {enable_thinking: false}}"
    recipe = write(tmp_path, f"model: {model}\ntask: {{name: math}}\n")
    chat = load_recipe(recipe).model.chat
    assert chat["chat_template"].startswith("{% for") and chat["chat_template_kwargs"] == {"enable_thinking": False}
    (tmp_path / "t.jinja").write_text("no template")
    for name, said in (("t.jinja", "no jinja template"), ("gone.jinja", "no such file")):
        with pytest.raises(ConfigError, match=said):
            load_recipe(recipe, [f"model.chat_template={name}"])
    with pytest.raises(ConfigError, match="messages is set by hpcmaf"):
        load_recipe(overrides=["model.chat_template_kwargs={messages: 1}"])


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
        name = f"math/{split}/algebra/{{}}.json"
        records = {name.format(n): math_record(n, n % 3 + 1, f"{split} algebra") for n in range(count)}
        choices = [[f"{split} question {n}?", f"a{n}", *"bcd", "ABCD"[n % 4]] for n in range(count)]
        mmlu = f"mmlu/{split}/subject_{split}.csv".replace("train", "val")
        lay(root, {f"gsm8k/{split}.jsonl": gsm8k_rows(split, count), mmlu: choices} | records)
    return {"arithmetic": None} | {name: root / name for name in ("gsm8k", "math", "mmlu")}


@pytest.mark.parametrize("name", BIG)
def test_every_recipe_can_be_planned(name: str, tmp_path: Path, data: Mapping[str, Path | None]) -> None:
    """With the hub and the size taken out of it, and its science left."""
    source = data[name.split("/")[0]]
    overrides = ["model.path=micro", f"task.train={TRAIN}", f"task.eval={EVAL}"]
    recipe = load_recipe(name, overrides + ([f"task.source={source}"] if source else []))
    plan, drawn = plan_run(RunDir(tmp_path / "run"), recipe, load_profile("h100"))
    assert drawn is not None and len(drawn.train) == TRAIN and len(drawn.eval) == EVAL
    assert len(plan.stage("it05/finetune").tasks) == 6


def test_shipped_recipes_have_the_papers_settings() -> None:
    assert BIG == sorted(f"{task}/{model}" for task in TASKS for model in MODELS)
    recipes = {name: load_recipe(name) for name in shipped_recipes()}
    for name in BIG:
        check_settings_of_the_paper(recipes[name])
        training = recipes[name].training
        assert (training.tuning, training.batch_size, training.max_length) == ("full", 192, 2048)
        assert recipes[name].task.levels == ([1, 2, 3] if name.startswith("math/") else None)


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
