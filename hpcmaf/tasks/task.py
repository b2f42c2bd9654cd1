"""What a task is made of: a supply of problems, and ways to ask them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import ConfigError
from hpcmaf.tasks.base import PromptSet
from hpcmaf.tasks.promptfile import PromptFile, TemplatePrompts
from hpcmaf.tasks.splits import Splits


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to put a task's questions, and the answers it asks for.

    ``prompts`` is a factory, so that a variant's module is loaded when used.
    """

    prompts: Callable[[], PromptSet]
    form: AnswerForm


class Supply(Protocol):
    """Where a task's problems come from: files, or a generator."""

    def splits(self, source: Path | None, train: int, eval: int, seed: int, levels: Sequence[int] | None) -> Splits:
        """Draw disjoint training and evaluation problems."""
        ...

    def prepare(self, source: str, out: Path, split: str | None) -> dict[str, Any]:
        """Bring a source into the project's own layout; returns counts."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """A task by name.

    Attributes
    ----------
    supply
        Its problems.
    variants
        Ways to ask them; every task has ``"default"``.
    """

    name: str
    supply: Supply
    variants: Mapping[str, Variant]

    def prompts(self, variant: str | PromptFile = "default") -> PromptSet:
        """User messages of a debate, of a variant or out of a prompt file.

        Raises
        ------
        ConfigError
            The task has no such variant.
        """
        if isinstance(variant, PromptFile):
            return TemplatePrompts(variant, self.prompts())
        return self._variant(variant).prompts()

    def answer_form(self, variant: str | PromptFile = "default") -> AnswerForm:
        """What kind of answer the variant's prompts ask for."""
        return self._variant("default" if isinstance(variant, PromptFile) else variant).form

    def splits(
        self,
        source: Path | None,
        train: int,
        eval: int,
        seed: int,
        levels: Sequence[int] | None = None,
    ) -> Splits:
        """Draw a run's problems.

        Parameters
        ----------
        source
            A folder that ``hpcmaf data prepare`` wrote, or a source it could
            read; ``None`` for generated tasks.
        train, eval
            How many problems of each.
        seed
            Decides the draw and nothing about which side a question is on.
        levels
            MATH levels; ``None`` takes the paper's, 1 to 3.

        Raises
        ------
        ConfigError
            More is asked for than there is; the message names the key.
        DataError
            The source is missing, torn or of an unknown layout.
        """
        return self.supply.splits(source, train, eval, seed, levels)

    def prepare(self, source: str, out: Path, split: str | None = None) -> dict[str, Any]:
        """Bring a local path or a hub data set into ``out``.

        Parameters
        ----------
        split
            ``"train"`` or ``"test"``: what to call a source that is one split
            and does not say which.

        Returns
        -------
        dict
            File name to its counts, as recorded in its manifest.
        """
        return self.supply.prepare(source, out, split)

    def _variant(self, name: str) -> Variant:
        if name not in self.variants:
            raise ConfigError(
                f"task.prompts: {self.name} has no prompts '{name}'; use one of {', '.join(self.variants)}"
            )
        return self.variants[name]
