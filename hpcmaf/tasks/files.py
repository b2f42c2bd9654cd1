"""Tasks whose problems come from files or the hub."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcmaf.errors import ConfigError, DataError
from hpcmaf.files.publish import file_sha256, manifest_path
from hpcmaf.tasks.base import Problem, question_hash
from hpcmaf.tasks.columnar import read_hub
from hpcmaf.tasks.layouts import READERS, left_out, locate, read_parts, recognised
from hpcmaf.tasks.prepared import counts, manifests, read_prepared, write_prepared
from hpcmaf.tasks.rows import Row
from hpcmaf.tasks.splits import Splits, assign_roles, draw

ALL_LEVELS = frozenset(range(1, 6))
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, slots=True)
class Files:
    """A :class:`hpcmaf.tasks.task.Supply` that reads a source.

    Attributes
    ----------
    task
        Its name, for messages and manifests.
    parse
        One row to one problem; raises DataError for a bad one.
    layouts
        Where a folder keeps its splits (see :func:`hpcmaf.tasks.layouts.locate`).
    configs
        Hub configurations to prefer.
    default_levels
        Levels taken when a recipe names none; ``None`` takes everything.
    """

    task: str
    parse: Callable[[Row], Problem]
    layouts: tuple[str, ...]
    configs: tuple[str, ...] = ()
    default_levels: tuple[int, ...] | None = None

    def splits(self, source: Path | None, train: int, eval: int, seed: int, levels: Sequence[int] | None) -> Splits:
        """Read a prepared folder, or a raw source, and draw from it."""
        if source is None:
            raise ConfigError(
                f"task.source: {self.task} needs one; run 'hpcmaf data prepare {self.task} --source PATH' "
                "and name the folder it writes"
            )
        present = manifests(source)
        if present:
            pools = read_prepared(source, self.task, present)
            for part in (part for parts in recognised(source, self.layouts).values() for part in parts):
                if not manifest_path(part.path).exists():
                    raise DataError(
                        f"{part.path}: lies beside prepared problems and is not one of them; prepare it, too, "
                        "or take it away"
                    )
        else:
            pools, _ = collect((self.parse(row), row) for row in read_parts(locate(source, self.layouts, None)))
        pools = select_levels(pools, self.default_levels if levels is None else levels, str(source))
        return draw(pools, train=train, eval=eval, seed=seed, source=str(source))

    def prepare(self, source: str, out: Path, split: str | None) -> dict[str, Any]:
        """Write ``train.jsonl`` and ``test.jsonl``, or ``all.jsonl`` for a source that is one pool."""
        path = Path(source)
        # A mistyped data/train.jsonl has the form of a hub id, but is none.
        if path.exists() or not _HUB_ID.fullmatch(source) or path.suffix in READERS:
            parts = locate(path, self.layouts, split)
            pools, repeated = collect((self.parse(row), row) for row in read_parts(parts))
            digest = _files_digest(path, [part.path for part in parts])
            unread = [str(other.relative_to(path)) for other in left_out(parts)] if path.is_dir() else []
        else:
            rows = list(read_hub(source, self.configs, split))
            pools, repeated = collect((self.parse(row), row) for row in rows)
            digest, unread = _rows_digest(rows), []
        roles = _roles(pools, split, source)
        report = {name: counts(pool) for name, pool in roles.items()}
        for name in roles:
            report[name] |= _repetitions(roles[name], [pool for other, pool in roles.items() if other != name])
        extra = {name: {"counts": report[name], "source": source, "source_sha256": digest} for name in roles}
        write_prepared(out, self.task, roles, extra, add=split is not None)
        return {**report, "repeated_records": repeated} | ({"left_out": unread} if unread else {})


def collect(problems: Iterable[tuple[Problem, Row]]) -> tuple[dict[str, list[Problem]], int]:
    """Sort problems into splits; drop records that are repeated word for word.

    Returns
    -------
    pools : dict
        Split name to problems with unique ids.
    repeated : int
        How many records were dropped.

    Raises
    ------
    DataError
        Two different problems of a split share an id.
    """
    pools: dict[str, list[Problem]] = {}
    seen: dict[tuple[str, str], tuple[Problem, str]] = {}
    repeated = 0
    for problem, row in problems:
        key = (row.split, problem.id)
        if key in seen:
            other, where = seen[key]
            if other != problem:
                raise DataError(f"{row.where}: id '{problem.id}' is taken by {where}; give every problem its own id")
            repeated += 1
            continue
        seen[key] = problem, row.where
        pools.setdefault(row.split, []).append(problem)
    return pools, repeated


def select_levels(
    pools: Mapping[str, list[Problem]], levels: Sequence[int] | None, source: str
) -> dict[str, list[Problem]]:
    """Keep problems of the given levels; levels 1 to 5 together keep everything.

    Raises
    ------
    DataError
        A split has no levels to choose by.
    ConfigError
        A split has none of these levels.
    """
    if levels is None or ALL_LEVELS <= set(levels):
        return dict(pools)
    if not levels:
        raise ConfigError("task.levels: an empty list chooses nothing; name levels or leave the key out")
    wanted = {str(level) for level in levels}
    shown = ", ".join(str(level) for level in sorted(levels))
    kept = {}
    for name, pool in pools.items():
        present = {problem.meta["level"] for problem in pool if "level" in problem.meta}
        if not present:
            raise DataError(
                f"{source}: no problem of its split '{name}' carries a level, so levels {shown} cannot be chosen; "
                "set task.levels to [1, 2, 3, 4, 5] to take all of them"
            )
        kept[name] = [problem for problem in pool if problem.meta.get("level") in wanted]
        if not kept[name]:
            raise ConfigError(
                f"task.levels: {source} has no problem of level {shown} in its split '{name}'; "
                f"it has {', '.join(sorted(present))}"
            )
    return kept


def _roles(pools: Mapping[str, list[Problem]], split: str | None, source: str) -> dict[str, list[Problem]]:
    training, test = assign_roles(pools)
    if test is None:
        only = split or next(iter(pools))
        return {only if only in ("train", "test") else "all": training}
    if split is not None:
        raise DataError(f"{source}: has the splits {', '.join(pools)} already; leave --split out")
    ids = [problem.id for problem in training]
    if len(set(ids)) < len(ids):
        double = next(name for position, name in enumerate(ids) if name in ids[:position])
        raise DataError(
            f"{source}: id '{double}' occurs in two of the splits that train; give every problem its own id"
        )
    return {"train": training, "test": test}


def _repetitions(pool: Sequence[Problem], others: Sequence[Sequence[Problem]]) -> dict[str, int]:
    """How often questions recur; ``splits`` uses each once, and keeps test questions out of training."""
    golds: dict[str, set[str | None]] = {}
    for problem in pool:
        golds.setdefault(question_hash(problem.question), set()).add(problem.gold)
    elsewhere = {question_hash(problem.question) for other in others for problem in other}
    return {
        "repeated_questions": len(pool) - len(golds),
        "questions_with_different_answers": sum(len(found) > 1 for found in golds.values()),
        "questions_in_other_split": len(elsewhere & golds.keys()),
    }


def _files_digest(source: Path, paths: Sequence[Path]) -> str:
    """sha256 of a file, or of the names and hashes of a folder's files."""
    if source.is_file():
        return file_sha256(source)
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(source).as_posix()}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _rows_digest(rows: Iterable[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        record = [row.split, row.group, row.values]
        digest.update(json.dumps(record, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()
