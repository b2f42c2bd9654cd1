"""Debates to store: small, odd, and as many as a test wants."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.store.schema import StoreInfo
from hpcmaf.store.writer import write_store
from hpcmaf.tasks.problems import Problem

INFO = StoreInfo("gsm8k", "number", agents=3, rounds=2, iteration=1, split="train", summaries=True)


def debate(row: int, info: StoreInfo = INFO, text: str = "2 + 2 = 4, so \\boxed{4}") -> Transcript:
    """A debate that differs from every other row's in every column."""

    def turn(kind: str, m: int, n: int) -> Utterance:
        answer = None if kind == "summary" or (row + n + m) % 4 == 0 else str(row % 3 + n // 2)
        reason = ("stop", "length", "unknown")[(row + n) % 3]
        return Utterance(kind, m, n, f"ask {row}.{m}.{n}", f"{text} {row}.{m}.{n}", answer, row + 1, m * 10 + n, reason)

    agents = range(info.agents)
    answers = tuple(tuple(turn("answer", m, n) for n in agents) for m in range(1, info.rounds + 1))
    summaries = tuple(tuple(turn("summary", m, n) for n in agents) for m in range(2, info.rounds + 1))
    gold = None if row % 5 == 4 else f"gold-{row}"
    problem = Problem(f"problem-{row:05d}", f"What is {row}?", gold, {"level": str(row % 3)})
    return Transcript(problem, answers, summaries if info.summaries else ())


def shards(folder: Path, *parts: Iterable[int]) -> list[Path]:
    """Published shards of debates, each with the rows of a part."""
    paths = [folder / f"shard-{k:05d}.h5" for k in range(len(parts))]
    for path, rows in zip(paths, parts, strict=True):
        write_store(path, INFO, map(debate, rows))
    return paths


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A published store of 40 debates."""
    path = tmp_path / "debate.h5"
    write_store(path, INFO, map(debate, range(40)))
    return path
