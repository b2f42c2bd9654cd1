"""Prepared problems: one layout for all tasks, written once, checked when read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpcmaf.errors import DataError
from hpcmaf.files.publish import (
    Manifest,
    Record,
    file_sha256,
    first_fault,
    manifest_path,
    read_manifest,
    write_manifest,
    write_text,
)
from hpcmaf.tasks.base import Problem
from hpcmaf.tasks.rows import read_jsonl

SCHEMA = "hpcmaf-problems/1"
FILES = ("train", "test", "all")


class _Extra(Record):
    task: str
    files: list[str] = []


class _Line(Record):
    id: str
    question: str
    gold: str | None
    meta: dict[str, str]


def _check(model: type[Record], values: Mapping[str, Any], where: str) -> None:
    try:
        model.model_validate(values)
    except ValidationError as error:
        raise DataError(f"{where}: {first_fault(error)}; delete it and run 'hpcmaf data prepare' again") from error


def manifests(source: Path) -> dict[str, Manifest]:
    """Split name to manifest, for a prepared folder or file; empty for anything else."""
    paths = [source / f"{name}.jsonl" for name in FILES] if source.is_dir() else [source]
    found = {path: manifest for path in paths if (manifest := read_manifest(path)) is not None}
    ours = {path: manifest for path, manifest in found.items() if manifest.schema == SCHEMA}
    for path, manifest in ours.items():
        _check(_Extra, manifest.extra, str(manifest_path(path)))
    return {path.stem: manifest for path, manifest in ours.items()}


def write_prepared(
    out: Path, task: str, pools: Mapping[str, list[Problem]], extra: Mapping[str, Mapping[str, Any]], *, add: bool
) -> None:
    """Write one file per split with its manifest.

    Parameters
    ----------
    pools
        Split name (of ``FILES``) to its problems, ids unique.
    extra
        Split name to what its manifest is to record: counts and source.
    add
        Whether the folder may already hold another split of the task.

    Raises
    ------
    DataError
        ``out`` holds files of another making.
    """
    present = manifests(out) if out.exists() else {}
    for name in FILES:
        path = out / f"{name}.jsonl"
        if name in pools and path.exists() and name not in present:
            raise DataError(f"{path}: exists and was not written by 'hpcmaf data prepare'; choose another --out")
        if name in present and present[name].extra.get("task") != task:
            raise DataError(f"{path}: holds problems of {present[name].extra.get('task')}; choose another --out")
        if name in present and name not in pools and not (add and "all" not in (name, *pools)):
            raise DataError(
                f"{path}: was prepared from another source; choose another --out, or name this split with --split"
            )
    for name, problems in pools.items():
        path = out / f"{name}.jsonl"
        write_text(path, "".join(_line(problem) for problem in problems))
        together = [name] if add else sorted(pools)
        write_manifest(path, rows=len(problems), schema=SCHEMA, extra={**extra[name], "task": task, "files": together})


def read_prepared(source: Path, task: str, present: Mapping[str, Manifest]) -> dict[str, list[Problem]]:
    """Read what ``write_prepared`` wrote.

    Raises
    ------
    DataError
        A file is missing, was changed, or belongs to another task.
    """
    folder = source if source.is_dir() else source.parent
    pools = {}
    for name, manifest in present.items():
        path = folder / f"{name}.jsonl" if source.is_dir() else source
        if (owner := manifest.extra.get("task")) != task:
            raise DataError(f"{path}: holds problems of {owner}, not of {task}; set task.name or task.source")
        if not path.exists() or file_sha256(path) != manifest.sha256:
            raise DataError(
                f"{path}: missing, or changed since it was prepared; delete {manifest_path(path)} "
                "and run 'hpcmaf data prepare' again"
            )
        absent = set(manifest.extra.get("files", ())) - set(present) if source.is_dir() else set()
        if absent:
            raise DataError(
                f"{folder / min(absent)}.jsonl: missing beside {path.name}; run 'hpcmaf data prepare' again to finish it"
            )
        pools[name] = [_problem(where, values) for where, _, values in read_jsonl(path)]
    return pools


def _line(problem: Problem) -> str:
    record = {"id": problem.id, "question": problem.question, "gold": problem.gold, "meta": dict(problem.meta)}
    return json.dumps(record) + "\n"


def _problem(where: str, values: Mapping[str, Any]) -> Problem:
    _check(_Line, values, where)
    return Problem(values["id"], values["question"], values["gold"], values["meta"])


def counts(problems: Iterable[Problem]) -> dict[str, Any]:
    """What a split holds: problems, how many lack an answer, and levels if any."""
    problems = list(problems)
    levels: dict[str, int] = {}
    for problem in problems:
        if "level" in problem.meta:
            levels[problem.meta["level"]] = levels.get(problem.meta["level"], 0) + 1
    summary: dict[str, Any] = {
        "problems": len(problems),
        "without_answer": sum(problem.gold is None for problem in problems),
    }
    return summary | ({"levels": dict(sorted(levels.items()))} if levels else {})
