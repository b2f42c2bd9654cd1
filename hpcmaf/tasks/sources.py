"""Problems from files and the hub: which files of a source hold which split, and what of it would be lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import ConfigError, DataError
from hpcmaf.files.publish import manifest_path
from hpcmaf.tasks.problems import Problem, manifests, read_prepared, write_prepared
from hpcmaf.tasks.prompts import task_prompts
from hpcmaf.tasks.readers import READERS, SPLIT_NAMES, Row, from_hub, kind
from hpcmaf.tasks.splits import Splits, draw, roles
from hpcmaf.tasks.task import Task

ALL_LEVELS = frozenset(range(1, 6))
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
_NOT_SUBJECTS = {*SPLIT_NAMES, "main", "data", "default", "all"}  # folders that stand for a whole data set
_DATA = {*READERS, ".gz", ".xz", ".bz2", ".zst", ".zip", ".tsv", ".ndjson", ".txt"}
# MMLU's auxiliary_train is no training split of its own questions.
_SAYS_SPLIT = re.compile(rf"(?<!auxiliary)(?:^|[-_.])({'|'.join(SPLIT_NAMES)})(?![a-z0-9])")
_DEEPEST = 3  # folders above a file of a source


@dataclass(frozen=True, kw_only=True)
class Files(Task):
    """A task that reads a source.

    Attributes
    ----------
    parse
        One row to one problem; raises DataError for a bad one.
    configs
        Folders of a source, or configurations on the hub, to take without others, in order of preference.
    levels
        Levels taken when a recipe names none; ``None`` takes everything.
    split_of
        The split that a row belongs to.
    """

    parse: Callable[[Row], Problem]
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
            for part in _scan(source):
                if part.split and part.path.parent == source:
                    raise DataError(f"{part.path}: lies beside prepared problems and is not one of them; take it away")
        else:
            pools = roles(self.collect(read_parts(locate(source, self.configs)))[0], str(source))
        pools = _of_levels(pools, self.levels if levels is None else levels, str(source))
        return draw(pools, train=train, eval=eval, seed=seed, source=str(source))

    def prepare(self, source: str, out: Path) -> dict[str, Any]:
        """Write ``train.jsonl`` and ``test.jsonl``, or ``all.jsonl`` of one pool, and return what each holds.

        Parameters
        ----------
        source
            A path, or a data set's id on the hub.
        """
        path = Path(source)
        # A mistyped data/train.jsonl has the form of a hub id, but is none.
        if not path.exists() and _HUB_ID.fullmatch(source) and kind(path) not in READERS:
            path = from_hub(source, self.configs)
        parts = locate(path, self.configs)
        unread = _left_out(parts) if path.is_dir() else []
        pools, repeated = self.collect(read_parts(parts))
        report = write_prepared(out, self.name, source, roles(pools, source))
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


def shipped(parse: Callable[[Row], Problem], form: AnswerForm, prompts: str = "", **more: Any) -> Files:
    """A task that is called as its parser is, and so is the folder of its prompts unless another is named."""
    name = parse.__name__.replace("_", "-")
    variants = {"default": task_prompts(prompts or name)}
    return Files(name=name, parse=parse, answer_form=form, variants=variants, **more)


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


# --- finding the files of a source ------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a source, of the split that its name or a folder's above it says, and of a subject's folder."""

    path: Path
    split: str
    group: str = ""


def locate(source: Path, configs: Sequence[str] = ()) -> list[Part]:
    """Find the files of a source: one file, or those of a folder that say which split they are of.

    Parameters
    ----------
    configs
        Folders in it to take without those beside them, in order of preference.

    Raises
    ------
    DataError
        There is no such path, nothing in it says its split, or a split is there in two forms or none.
    """
    if source.is_file():
        if kind(source) not in READERS:
            raise DataError(f"{source}: unknown kind of file; one of {', '.join(READERS)} is expected")
        named = _SAYS_SPLIT.search(source.stem.casefold())
        return [Part(source, named[1] if named else "all")]
    if not source.is_dir():
        what = "neither a file nor a folder" if source.exists() else "no such file or folder"
        raise DataError(f"{source}: {what}; check the path")
    found = list(_scan(source))
    for folder in (source / name for name in (*configs, "default")):
        if any(part.split and folder in part.path.parents for part in found):
            found = [part for part in found if source == part.path.parent or folder in part.path.parents]
            break
    parts = [part for name in SPLIT_NAMES for part in _of_split(name, found, source)]
    for part in found:
        if part.split and part.split not in {one.split for one in parts}:
            raise DataError(
                f"{part.path}: seems to be the split '{part.split}', but in no known form; convert it or take it away"
            )
    files = [part.path for part in found if kind(part.path) in READERS and part.path.parent == source]
    if not parts and len(files) != 1:
        shown = ", ".join(f"train{suffix}" for suffix in READERS)
        names = f" (it holds {', '.join(path.name for path in files[:4])})" if files else ""
        raise DataError(f"{source}: unknown layout{names}; expected one of {shown} in it, or pass one file")
    return parts or [Part(files[0], "all")]


def _scan(source: Path) -> Iterator[Part]:
    """What a folder has of data that this program did not prepare; without a split where nothing says one."""
    for path in (path for depth in range(_DEEPEST + 1) for path in sorted(source.glob("*/" * depth + "*"))):
        names = [path.name, *reversed(path.relative_to(source).parts[:-1])]
        about = any(name.startswith((".", "dataset_info")) for name in names) or path.name.endswith(".manifest.json")
        if about or path.suffix.casefold() not in _DATA or path.is_dir() or manifest_path(path).exists():
            continue
        said = (match[1] for name in names if (match := _SAYS_SPLIT.search(name.casefold())))
        if not path.is_file():
            raise DataError(f"{path}: no file that could be read; put it right, or take it away")
        yield Part(path, next(said, ""), next((name for name in names[1:] if name not in _NOT_SUBJECTS), ""))


def _of_split(name: str, found: Sequence[Part], source: Path) -> list[Part]:
    """The files of a split that can be read; refused where it is there in two forms."""
    parts = [part for part in found if part.split == name and kind(part.path) in READERS]
    # A file "train" is the split, and a "train_socratic" beside it something else; so are folders beside both.
    plain = [part for part in parts if part.path.name.casefold() == name + kind(part.path)]
    folders = {part.path.parent for part in plain}
    parts = [part for part in parts if part in plain or part.path.parent not in folders]
    parts = [part for part in parts if not part.group] or parts
    forms: dict[tuple[str, ...], Path] = {}
    for part in parts:
        path = part.path.relative_to(source)
        form = (kind(path), *("*" if folder == part.group else folder for folder in path.parts[:-1]))
        forms.setdefault(form, path)
    if len(forms) > 1:
        one, other = list(forms.values())[:2]
        raise DataError(f"{source}: {one} and {other} are both its split '{name}'; name the file or folder you mean")
    return parts


def _left_out(parts: Sequence[Part]) -> list[str]:
    """Names of files beside those of a source that could be data, too; ``.json`` is mostly about data."""
    paths = {part.path for part in parts}
    beside = sorted({path for folder in {path.parent for path in paths} for path in folder.iterdir()} - paths)
    return [path.name for path in beside if kind(path) in READERS.keys() - {".json"}]


def read_parts(parts: Sequence[Part]) -> Iterator[Row]:
    """Read files one after the other, numbering rows within split and group."""
    counts: dict[tuple[str, str, str], int] = {}
    for part in parts:
        # CSV files are one subject each, so numbering starts anew.
        scope = part.path.stem if part.path.suffix == ".csv" else ""
        index = None
        for where, named, values in READERS[kind(part.path)](part.path):
            key = (named or part.split, part.group, scope)
            index = counts[key] = counts.get(key, -1) + 1
            yield Row(where, values, key[0], part.path.stem, part.group, index)
        if index is None:
            raise DataError(f"{part.path}: holds no problems; fetch or write it again")
