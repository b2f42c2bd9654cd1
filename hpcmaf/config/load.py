"""Recipes by path or by shipped name, whole or by halves, with whatever files they name."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from hpcmaf.config import DEFAULT_RECIPE
from hpcmaf.config.recipe import Recipe
from hpcmaf.errors import ConfigError
from hpcmaf.files.publish import read_bytes
from hpcmaf.files.yaml import apply_overrides, read_mapping, shipped_folder, validate
from hpcmaf.tasks.prompts import PromptFile

# Folders that hold no whole recipes.
_PARTS = {"models", "prompts", "studies", "tasks"}


def _shipped(name: str) -> Path:
    return shipped_folder("recipes", "recipes") / name


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package, such as ``arithmetic/micro`` and ``math/llama3-8b``."""
    halves = [sorted(path.stem for path in _shipped(half).glob("*.yaml")) for half in ("tasks", "models")]
    whole = [path.relative_to(_shipped("")).with_suffix("") for path in _shipped("").glob("*/*.yaml")]
    return sorted([*map("/".join, product(*halves)), *(str(path) for path in whole if path.parts[0] not in _PARTS)])


def _find(name: str) -> list[Path]:
    """A recipe's file, or its two halves: a model's and a task's."""
    task, _, model = name.partition("/")
    halves = [_shipped(f"models/{model}.yaml"), _shipped(f"tasks/{task}.yaml")]
    for files in ([Path(name)], [_shipped(f"{name}.yaml")], halves):
        if all(file.is_file() for file in files):
            return files
    shipped = ", ".join(shipped_recipes())
    raise ConfigError(f"--recipe {name}: neither a file nor a shipped recipe; shipped are {shipped}")


def load_recipe(
    name: str = DEFAULT_RECIPE, overrides: Sequence[str | tuple[str, Any]] = (), iterations: int | None = None
) -> Recipe:
    """Read a recipe by path or shipped name; ``key=value`` strings or pairs win over it, and L over those.

    Raises
    ------
    ConfigError
        One line: file, key, fault, remedy.
    """
    files = _find(name)
    values: dict[str, Any] = {"name": files[0].stem if len(files) == 1 else name.replace("/", "-")}
    for file in files:
        values |= read_mapping(file)
    values = apply_overrides(values, overrides)
    if iterations is not None:
        auto = values.get("iterations") == "auto" or isinstance(values.get("iterations"), dict)
        values["iterations"] = {"auto": iterations} if auto else iterations
    _read_files(values, files[0].parent)
    own = values.get("agents")
    for settings in own if isinstance(own, list) else own.values() if isinstance(own, dict) else ():
        if isinstance(settings, dict):  # its prompts are those of its tasks
            _read_files({"model": settings.get("model"), "task": settings}, files[0].parent)
    where = " + ".join(map(str, files))
    return validate(Recipe, values, f"{where} (with --set)" if overrides else where)


def _read_files(values: dict[str, Any], folder: Path) -> None:
    """Put what files say in place of their names."""
    for section, key, read in (
        *((section, "prompts", _prompts) for section in ("task", "evaluate_on")),
        *((section, key, _plugin) for section in ("task", "evaluate_on") for key in ("name", "grader")),
        ("model", "chat_template", _template),
    ):
        if isinstance(found := values.get(section), dict) and isinstance(found.get(key), str):
            found[key] = read(found[key], folder, f"{section}.{key}")


# What stands in place of a file's name: a run keeps what it was begun with, whatever becomes of the file.


def _beside(name: str, folder: Path, key: str) -> Path:
    """A file that a recipe names, beside it or here."""
    for path in (folder / name, Path(name)):
        if path.is_file():
            return path
    raise ConfigError(f"{key}: {name}: no such file beside the recipe or here; check the path")


def _prompts(name: str, folder: Path, key: str) -> Any:
    """A prompt file's content, or the name of a task's variant."""
    if name.endswith((".yaml", ".yml")):
        found = _beside(name, folder, key)
    elif "/" in name or not (found := _shipped(f"prompts/{name}.yaml")).is_file():
        return name
    return validate(PromptFile, read_mapping(found), str(found)).model_dump(exclude_defaults=True)


def _plugin(name: str, folder: Path, key: str) -> str:
    """A task's or a grader's name, under which its file is found from anywhere."""
    path, _, found = name.rpartition(":")
    return f"{_beside(path, folder, key).resolve()}:{found}" if path.endswith(".py") else name


def _template(name: str, folder: Path, key: str) -> str:
    """A chat template's text."""
    if "{%" in name or "{{" in name:
        return name
    text = read_bytes(found := _beside(name, folder, key)).decode("utf-8", "replace")
    if "{%" not in text and "{{" not in text:
        raise ConfigError(f"{key}: {found}: no jinja template; it has neither {{% nor {{{{")
    return text
