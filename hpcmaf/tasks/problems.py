"""Problems: what one is, and the files that ``hpcmaf data prepare`` writes of them and runs read."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpcmaf.errors import DataError
from hpcmaf.files.publish import Manifest, file_sha256, manifest_path, read_manifest, write_manifest, write_text

SCHEMA = "hpcmaf-problems/1"
FILES = ("train", "test", "all")
# Compatibility forms that change what is meant: a power is no factor, and a half no digits.
_OWN_MEANING = ("<super>", "<sub>", "<fraction>", "<circle>", "<square>")


@dataclass(frozen=True, slots=True)
class Problem:
    """One question, with its gold answer where one is known.

    ``gold`` is for evaluation alone: nothing between a debate and a training set reads it.
    """

    id: str
    question: str
    gold: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)


def question_hash(question: str) -> str:
    """Hash of a question that case, spacing and Unicode form do not change; powers and fractions stay what they are."""
    whole = unicodedata.normalize("NFC", question)
    if not whole.isascii():
        whole = "".join(
            char if unicodedata.decomposition(char).startswith(_OWN_MEANING) else unicodedata.normalize("NFKC", char)
            for char in whole
        )
    folded = " ".join(unicodedata.normalize("NFC", whole.casefold()).split())
    return hashlib.sha256(folded.encode("utf-8", "surrogatepass")).hexdigest()


def to_lines(problems: Iterable[Problem]) -> str:
    """The content of a file of problems, one JSON object per line."""
    return "".join(json.dumps(asdict(problem)) + "\n" for problem in problems)


def from_lines(data: bytes) -> list[Problem]:
    """Inverse of :func:`to_lines`, for files whose digest has been compared."""
    return [Problem(**json.loads(line)) for line in data.splitlines()]


def manifests(source: Path) -> dict[str, Manifest]:
    """Split name to manifest, for a prepared folder or file; empty for anything else."""
    paths = [source / f"{name}.jsonl" for name in FILES] if source.is_dir() else [source]
    found = {path.stem: read_manifest(path) for path in paths}
    return {name: manifest for name, manifest in found.items() if manifest and manifest.layout == SCHEMA}


def write_prepared(out: Path, task: str, source: str, pools: Mapping[str, Sequence[Problem]]) -> dict[str, Any]:
    """Write one file per split (of ``FILES``) with its manifest, and return what each holds.

    Raises
    ------
    DataError
        ``out`` holds files of another making.
    """
    present = manifests(out) if out.exists() else {}
    for name in FILES:
        path = out / f"{name}.jsonl"
        ours = name in pools and name in present and present[name].extra.get("task") == task
        if not ours and (name in present or name in pools and path.exists()):
            raise DataError(
                f"{path}: is no earlier output of 'hpcmaf data prepare {task}' on such a source; choose another --out, "
                "or prepare all splits from one folder"
            )
    report = {name: _counts(problems) for name, problems in pools.items()}
    for name, problems in pools.items():
        path = out / f"{name}.jsonl"
        write_text(path, to_lines(problems))
        about = {"counts": report[name], "source": source, "task": task, "files": sorted(pools)}
        write_manifest(path, rows=len(problems), schema=SCHEMA, extra=about)
    return report


def read_prepared(source: Path, task: str, present: Mapping[str, Manifest]) -> dict[str, list[Problem]]:
    """Read what ``write_prepared`` wrote.

    Raises
    ------
    DataError
        A file is missing, was changed, or belongs to another task.
    """
    pools = {}
    for name, manifest in present.items():
        path = source / f"{name}.jsonl" if source.is_dir() else source
        if (owner := manifest.extra.get("task")) != task:
            raise DataError(f"{path}: holds problems of {owner}, not of {task}; set task.name or task.source")
        if not path.exists() or file_sha256(path) != manifest.sha256:
            raise DataError(
                f"{path}: missing, or changed since it was prepared; delete {manifest_path(path)} "
                "and run 'hpcmaf data prepare' again"
            )
        files = manifest.extra.get("files")
        absent = [name for name in FILES if isinstance(files, list) and name in files and name not in present]
        if source.is_dir() and absent:
            lacking = source / f"{absent[0]}.jsonl"
            raise DataError(f"{lacking}: missing beside {path.name}; run 'hpcmaf data prepare' again to finish it")
        pools[name] = from_lines(path.read_bytes())
    return pools


def _counts(pool: Sequence[Problem]) -> dict[str, Any]:
    """What a split holds; runs use each question once, and keep those of the test split out of training."""
    levels = Counter(problem.meta["level"] for problem in pool if "level" in problem.meta)
    return {
        "problems": len(pool),
        "without_answer": sum(problem.gold is None for problem in pool),
        **({"levels": dict(sorted(levels.items()))} if levels else {}),
        "repeated_questions": len(pool) - len({question_hash(problem.question) for problem in pool}),
    }
