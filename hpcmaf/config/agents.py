"""Settings that an agent has of its own: the section ``agents`` of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BeforeValidator

from hpcmaf.debate.methods import METHODS, SUMMARIZER
from hpcmaf.errors import ConfigError
from hpcmaf.files.yaml import Strict, added, validate
from hpcmaf.tasks.prompts import PromptFile

if TYPE_CHECKING:
    from hpcmaf.config.recipe import Recipe

Section = TypeVar("Section", bound=Strict)

_ROLES = ("generator", "critic")
# Keys of ``training`` that decide what all agents' data is.
_FOR_ALL = ("objective", "loss_on", "thinking")
# With another path, the rest of ``model`` says nothing about the model that is there.
_FOR_ANY_MODEL = ("dtype", "date")


class AgentSettings(Strict):
    """What one agent has of its own; all that it leaves out is as the recipe has it."""

    model: dict[str, Any] = added({}, "keys of model; with another path, only dtype and date are the recipe's")
    tuning: Literal["lora", "full"] | None = added(None, "short for training: {tuning: ...}")
    training: dict[str, Any] = added({}, "keys of training")
    sampling: dict[str, Any] = added({}, "keys of sampling")
    prompts: str | PromptFile | None = added(None, "in place of task.prompts")


# A list has the agents' settings by number.
BY_NUMBER = BeforeValidator(
    lambda value: {str(n): own for n, own in enumerate(value)} if isinstance(value, list) else value
)


def names_of(key: str) -> list[str]:
    """Agents that a key of the section means: a number's generator and critic, or the one it names."""
    return [f"{role}-{key}" for role in _ROLES] if key.isdecimal() else [key]


def resolved(recipe: Recipe, agent: str) -> Recipe:
    """A recipe as one agent has it: its own settings over those of its number, these over the recipe's.

    Raises
    ------
    ConfigError
        A section that comes of it is none.
    """
    found: dict[str, Any] = {}
    for key in dict.fromkeys((agent.rpartition("-")[2], agent)):
        if (own := recipe.agents.get(key)) is None:
            continue
        training = ({"tuning": own.tuning} if own.tuning else {}) | own.training
        for name, given in (("model", own.model), ("training", training), ("sampling", own.sampling)):
            if given:
                found[name] = _over(found.get(name, getattr(recipe, name)), given, f"agents.{key}.{name}")
        if own.prompts is not None:
            sources = {name: getattr(recipe, name) for name in ("task", "evaluate_on")}
            found |= {name: one and one.model_copy(update={"prompts": own.prompts}) for name, one in sources.items()}
    return recipe.model_copy(update=found | {"agents": {}})


def _over(top: Section, given: dict[str, Any], where: str) -> Section:
    values = top.model_dump()
    if "path" in given and given["path"] != values.get("path"):
        values = {key: values[key] for key in _FOR_ANY_MODEL}
    if isinstance(given.get("lora"), dict):
        given = given | {"lora": values["lora"] | given["lora"]}
    return validate(type(top), values | given, where)


def check_agents(recipe: Recipe) -> None:
    """Refuse settings of nobody, and those that an agent cannot have of its own; raises ValueError."""
    numbers = range(recipe.debate.agents)
    known = {SUMMARIZER, *map(str, numbers), *(f"{role}-{n}" for role in _ROLES for n in numbers)}
    for key, own in recipe.agents.items():
        if key == SUMMARIZER:
            if other := own.model_fields_set - {"model"}:
                raise ValueError(f"agents.{key}.{min(other)}: the summarizer has a model of its own alone; drop it")
        elif key not in known:
            some = f"'0' to '{numbers[-1]}', generator-N, critic-N and {SUMMARIZER}"
            raise ValueError(f"agents.{key}: no such agent; there are {some}")
        elif METHODS[recipe.method].trained == "single":
            raise ValueError(f"agents.{key}: method {recipe.method} has one model for all agents; leave it out")
        for name in names_of(key):
            try:
                training = recipe.of(name).training
            except ConfigError as error:
                raise ValueError(str(error)) from None
            for shared in _FOR_ALL:
                if getattr(training, shared) != getattr(recipe.training, shared):
                    raise ValueError(f"agents.{key}.training.{shared}: is the same for all agents; set it in training")
