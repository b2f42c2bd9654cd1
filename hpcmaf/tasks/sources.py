"""Problems from files and the hub: which files of a source hold which split, and what of it would be lost."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import ConfigError, DataError
from hpcmaf.files.publish import manifest_path
from hpcmaf.tasks.problems import Problem, describe, manifests, read_prepared, write_prepared
from hpcmaf.tasks.prompts import PromptSet
from hpcmaf.tasks.readers import READERS, SPLIT_NAMES, Row, kind, read_hub
from hpcmaf.tasks.splits import Splits, assign_roles, draw
from hpcmaf.tasks.task import Task

ALL_LEVELS = frozenset(range(1, 6))
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
# One file per split as people write it, and parquet as the hub keeps and converts it.
_FORMS = (*(f"{{split}}{suffix}" for suffix in READERS), "{split}-*.parquet", "{split}/*.parquet")
# Folders that stand for a whole data set, not for a subject.
_NOT_SUBJECTS = {*SPLIT_NAMES, "main", "data", "default", "all"}
# Suffixes of data that are of no use as they are.
_DATA = {*READERS, ".gz", ".xz", ".bz2", ".zst", ".zip", ".tsv", ".ndjson", ".txt"}
# MMLU's auxiliary_train is no training split of its own questions.
_SAYS_SPLIT = re.compile(rf"(?<!auxiliary)(?:^|[-_.])({'|'.join(SPLIT_NAMES)})(?![a-z])")


def within(*folders: str) -> tuple[str, ...]:
    """The usual forms inside each of ``folders`` (``""`` or with a trailing slash)."""
    return tuple(folder + form for folder in folders for form in _FORMS)


@dataclass(frozen=True, kw_only=True)
class Files(Task):
    """A task that reads a source.

    Attributes
    ----------
    parse
        One row to one problem; raises DataError for a bad one.
    layouts
        Where a folder keeps its splits: glob patterns with ``{split}`` or ``{Split}``, in order of preference.
    configs
        Hub configurations to prefer.
    levels
        Levels taken when a recipe names none; ``None`` takes everything.
    split_of
        The split that a row belongs to.
    """

    parse: Callable[[Row], Problem]
    layouts: tuple[str, ...]
    configs: tuple[str, ...] = ()
    levels: tuple[int, ...] | None = None
    split_of: Callable[[Row], str] = lambda row: row.split

    def splits(
        self, source: Path | None, train: int, eval: int, seed: int, levels: Sequence[int] | None = None
    ) -> Splits:
        """Read a prepared folder, or a raw source, and draw from it."""
        if source is None:
            raise ConfigError(
                f"task.source: {self.name} needs one; run 'hpcmaf data prepare {self.name} --source PATH' "
                "and name the folder it writes"
            )
        if present := manifests(source):
            pools = read_prepared(source, self.name, present)
            for part in _recognised(source, self.layouts):
                if not manifest_path(part.path).exists():
                    raise DataError(
                        f"{part.path}: lies beside prepared problems and is not one of them; prepare both "
                        "from one folder, or take it away"
                    )
        else:
            pools, _ = self.collect(read_parts(locate(source, self.layouts)))
        pools = _of_levels(pools, self.levels if levels is None else levels, str(source))
        return draw(pools, train=train, eval=eval, seed=seed, source=str(source))

    def prepare(self, source: str, out: Path) -> dict[str, Any]:
        """Write ``train.jsonl`` and ``test.jsonl``, or ``all.jsonl`` for a source that is one pool.

        Parameters
        ----------
        source
            A path, or a data set's id on the hub.

        Returns
        -------
        dict
            File name to its counts, as recorded in its manifest.
        """
        path, unread = Path(source), []
        # A mistyped data/train.jsonl has the form of a hub id, but is none.
        if path.exists() or not _HUB_ID.fullmatch(source) or kind(path) in READERS:
            parts = locate(path, self.layouts)
            rows = read_parts(parts)
            unread = left_out(parts) if path.is_dir() else []
        else:
            rows = read_hub(source, self.configs)
        pools, repeated = self.collect(rows)
        roles = _roles(pools, source)
        report = {name: describe(pool) for name, pool in roles.items()}
        write_prepared(out, self.name, roles, {name: {"counts": report[name], "source": source} for name in roles})
        return {**report, "repeated_records": repeated} | ({"left_out": unread} if unread else {})

    def collect(self, rows: Iterable[Row]) -> tuple[dict[str, list[Problem]], int]:
        """Sort problems into splits, ids unique in each; also how many records are repeated word for word.

        Raises
        ------
        DataError
            Two different problems of a split share an id.
        """
        pools: dict[str, list[Problem]] = {}
        seen: dict[tuple[str, str], tuple[Problem, str]] = {}
        repeated = 0
        for row in rows:
            problem, split = self.parse(row), self.split_of(row)
            first, where = seen.setdefault((split, problem.id), (problem, row.where))
            if first is problem:
                pools.setdefault(split, []).append(problem)
            elif first == problem:
                repeated += 1
            else:
                raise DataError(f"{row.where}: id '{problem.id}' is taken by {where}; give every problem its own id")
        return pools, repeated


def shipped(
    parse: Callable[[Row], Problem], layouts: tuple[str, ...], form: AnswerForm, *prompts: str, **more: Any
) -> Files:
    """A task that is called as its parser is; prompts are the instruction and the ending of a :class:`PromptSet`."""
    name, variants = parse.__name__.replace("_", "-"), {"default": PromptSet(*prompts)}
    return Files(name=name, parse=parse, layouts=layouts, answer_form=form, variants=variants, **more)


def _of_levels(
    pools: Mapping[str, list[Problem]], levels: Sequence[int] | None, source: str
) -> dict[str, list[Problem]]:
    """Keep problems of the given levels; levels 1 to 5 together keep everything."""
    if levels is None or ALL_LEVELS <= set(levels):
        return dict(pools)
    wanted = [str(level) for level in sorted(levels)]
    kept = {name: [problem for problem in pool if problem.meta.get("level") in wanted] for name, pool in pools.items()}
    for name, pool in kept.items():
        if not pool:
            present = sorted({problem.meta["level"] for problem in pools[name] if "level" in problem.meta})
            raise ConfigError(
                f"task.levels: {source} has no problem of level {', '.join(wanted)} in its split '{name}'; it has "
                f"{', '.join(present) or 'none that says its level'}; set task.levels to [1, 2, 3, 4, 5] to take all"
            )
    return kept


def _roles(pools: Mapping[str, list[Problem]], source: str) -> dict[str, list[Problem]]:
    training, test = assign_roles(pools)
    if test is None:
        (only,) = pools
        return {only if only in ("train", "test") else "all": training}
    taken = Counter(problem.id for problem in training)
    if twice := [id for id, count in taken.items() if count > 1]:
        raise DataError(
            f"{source}: id '{twice[0]}' occurs in two of the splits that train; give every problem its own id"
        )
    return {"train": training, "test": test}


# --- finding the files of a source ------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a source."""

    path: Path
    split: str
    group: str = ""


def locate(source: Path, layouts: Sequence[str]) -> list[Part]:
    """Find the files of a source.

    Parameters
    ----------
    source
        A file of a known suffix, or a folder in one of ``layouts``.
    layouts
        Glob patterns with ``{split}``.

    Raises
    ------
    DataError
        There is no such path, no layout fits, or something that looks like data would be left out: a split in two
        forms or none.
    """
    if source.is_file():
        if kind(source) not in READERS:
            raise DataError(f"{source}: unknown kind of file; one of {', '.join(READERS)} is expected")
        named = _SAYS_SPLIT.search(source.stem.casefold())
        return [Part(source, named[1] if named else "all")]
    if not source.is_dir():
        there = source.exists()
        what = "neither a file nor a folder; name one of the two" if there else "no such file or folder; check the path"
        raise DataError(f"{source}: {what}")
    if not (parts := _recognised(source, layouts)):
        files = [path for path in sorted(source.iterdir()) if kind(path) in READERS and not path.name.startswith(".")]
        if len(files) != 1:
            shown = ", ".join(layout.format(split="train", Split="Train") for layout in layouts[:4])
            names = f" (it holds {', '.join(path.name for path in files[:4])})" if files else ""
            raise DataError(f"{source}: unknown layout{names}; expected one of {shown}, ... in it, or pass one file")
        parts = locate(files[0], layouts)
    for part in parts:
        if not part.path.is_file():
            raise DataError(f"{part.path}: no file that could be read; put it right, or take it away")
    left_out(parts)
    return parts


def _recognised(source: Path, layouts: Sequence[str]) -> list[Part]:
    """The files of a folder that are in a layout, split by split; refused where a split is in two layouts."""
    found: dict[Path, Part] = {}
    for name in SPLIT_NAMES:
        before = ""
        for layout in layouts:
            # What is in a folder "all" or "default" is in the folders of subjects beside it, too.
            if layout.startswith("*/") and before.startswith(("all/", "default/")):
                continue
            for path in sorted(source.glob(layout.format(split=name, Split=name.capitalize()))):
                if path.is_dir() or path in found:
                    continue
                if before not in ("", layout):
                    other = next(part.path for part in found.values() if part.split == name)
                    names = f"{other.relative_to(source)} and {path.relative_to(source)}"
                    raise DataError(f"{source}: {names} are both its split '{name}'; name the file or folder you mean")
                before = layout
                folders = reversed(path.relative_to(source).parts[:-1])
                subject = next((folder for folder in folders if folder not in _NOT_SUBJECTS), "")
                found[path] = Part(path, name, subject)
    return list(found.values())


def left_out(parts: Sequence[Part]) -> list[str]:
    """Names of files beside those of a source that could be data, too; ``.json`` is mostly about data.

    Raises
    ------
    DataError
        One says by its name that it is a split which nothing else here is.
    """
    present, paths = {part.split for part in parts}, {part.path for part in parts}
    beside = sorted({path for folder in {path.parent for path in paths} for path in folder.iterdir()} - paths)
    for path in beside:
        match = _SAYS_SPLIT.search(path.name.casefold())
        if match is None or match[1] in present or path.name.startswith("."):
            continue
        inside = path.rglob("*") if path.is_dir() else [path]
        if any(file.suffix.casefold() in _DATA for file in inside):
            raise DataError(
                f"{path}: seems to be the split '{match[1]}', but is in no known form; "
                f"bring it into the form of the other files there, or take it away"
            )
    return [path.name for path in beside if kind(path) in READERS.keys() - {".json"}]


def read_parts(parts: Sequence[Part]) -> Iterator[Row]:
    """Read files one after the other, numbering rows within split and group."""
    counts: dict[tuple[str, str, str], int] = {}
    for part in parts:
        empty = True
        # CSV files are one subject each, so numbering starts anew.
        scope = part.path.stem if part.path.suffix == ".csv" else ""
        for where, named, values in READERS[kind(part.path)](part.path):
            empty = False
            key = (named or part.split, part.group, scope)
            index = counts[key] = counts.get(key, -1) + 1
            yield Row(where, values, key[0], part.path.stem, part.group, index)
        if empty:
            raise DataError(f"{part.path}: holds no problems; fetch or write it again")
