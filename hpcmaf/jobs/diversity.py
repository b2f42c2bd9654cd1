"""Diversity of a run directory's iterations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hpcmaf.config.recipe import Recipe
from hpcmaf.errors import DataError
from hpcmaf.evaluation.diversity import measure, sample
from hpcmaf.files.publish import write_json
from hpcmaf.jobs.serving import served_models, society_of
from hpcmaf.run.directory import RunDir


def measure_run(
    run: RunDir, iterations: Sequence[int], problems: int, *, again: bool = False, **model: Any
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Measure iterations and write each one's ``diversity.json``.

    Parameters
    ----------
    iterations
        Which; all that have evaluation debates if empty.
    again
        Also those that have been measured; they are left as they are
        otherwise.
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
    there = [t for t in run.iterations() if run.store(t, "eval").is_file()]
    if not there:
        raise DataError(f"{run.root}: no eval.h5 in any iteration; evaluate one first, or copy the stores as well")
    for t in iterations or there:
        if t not in there:
            others = ", ".join(map(str, there))
            raise DataError(f"{run.store(t, 'eval')}: missing; iterations with debates are {others}")
        if run.diversity(t).exists() and not again:
            continue
        served = served_models(run, recipe, t)
        transcripts = sample(run.store(t, "eval"), problems)
        if not transcripts:
            raise DataError(f"{run.store(t, 'eval')}: holds no debate")
        society = society_of(recipe, served, evaluating=True)
        value = measure(transcripts, served, society, iteration=t, **model)
        write_json(run.diversity(t), value)
        yield run.diversity(t), value
