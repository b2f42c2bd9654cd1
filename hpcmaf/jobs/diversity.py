"""Diversity of a run directory's iterations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hpcmaf.config.recipe import Recipe
from hpcmaf.debate.transcript import Transcript
from hpcmaf.errors import DataError
from hpcmaf.evaluation.diversity import measure
from hpcmaf.files.publish import write_json
from hpcmaf.jobs.serving import served_models, society_of
from hpcmaf.run.directory import RunDir
from hpcmaf.seeding import derive_seed
from hpcmaf.store.reader import Store


def measure_run(
    run: RunDir, iterations: Sequence[int], problems: int, **model: Any
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Measure iterations that have no ``diversity.json`` and write it.

    Parameters
    ----------
    iterations
        Which; all that have evaluation debates if empty.
    model
        Encoder, device and batch size, see
        :func:`hpcmaf.evaluation.diversity.measure`.

    Yields
    ------
    tuple
        The file and its content.

    Raises
    ------
    DataError
        Not a run, or an iteration without debates or without its models.
    """
    recipe = Recipe.model_validate(run.load_plan().recipe)
    for t in run.having(lambda t: run.store(t, "eval"), "no eval.h5", iterations):
        if run.diversity(t).exists():
            continue
        served = served_models(run, recipe, t)
        transcripts = sample(run.store(t, "eval"), problems)
        if not transcripts:
            raise DataError(f"{run.store(t, 'eval')}: holds no debate")
        society = society_of(recipe, served, evaluating=True)
        value = measure(transcripts, served, society, iteration=t, **model)
        write_json(run.diversity(t), value)
        yield run.diversity(t), value


def sample(store: Path, problems: int) -> list[Transcript]:
    """Debates of a store, without their gold answers.

    Which ones depends on the problems' ids alone, so iterations and methods are measured on the same.
    """
    with Store(store) as opened:
        ids = sorted(opened.problem_ids, key=lambda problem: (derive_seed(0, problem, "diversity"), problem))[:problems]
        return [opened.find(problem) for problem in ids]
