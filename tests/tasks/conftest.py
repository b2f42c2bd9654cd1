"""Small sources in the layouts that data sets come in."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest


def lay(root: Path, files: Mapping[str, Any]) -> Path:
    """Write rows (or a text) into files by name, each in the form that its ending says."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, rows in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match path.suffix:
            case _ if isinstance(rows, str):
                path.write_text(rows)
            case ".jsonl":
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            case ".json":
                path.write_text(json.dumps(rows))
            case ".csv":
                with path.open("w", newline="") as file:
                    csv.writer(file).writerows(rows)
            case ".parquet":
                pq.write_table(pa.Table.from_pylist(rows), path)
    return root


def gsm8k_rows(split: str, count: int) -> list[dict[str, str]]:
    """Rows in GSM8K's own form; answers are 1,000, 1,001, ..."""
    return [
        {"question": f"{split} story {n}: how many?", "answer": f"We add.\nIt is <<1+1=2>>2.\n#### {1000 + n:,}"}
        for n in range(count)
    ]


def math_record(n: int, level: object = 1, subject: str = "Algebra") -> dict[str, Any]:
    """A record in MATH's own form."""
    return {
        "problem": f"{subject} at {level}: what is ${n}/3$?",
        "level": f"Level {level}",
        "type": subject,
        "solution": rf"First \boxed{{0}}, no: it is \boxed{{\frac{{{n}}}{{3}}}}.",
    }


@pytest.fixture
def gsm8k_folder(tmp_path: Path) -> Path:
    """An official GSM8K folder; a path with a space and quotes."""
    folder = tmp_path / 'it\'s a "folder"'
    train = gsm8k_rows("train", 20)
    # The repository ships the last beside them: the same questions again.
    files = {"train.jsonl": train, "test.jsonl": gsm8k_rows("test", 8), "test_socratic.jsonl": train}
    return lay(folder, files)
