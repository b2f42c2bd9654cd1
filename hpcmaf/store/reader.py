"""An HDF5 file to transcripts: in order and streaming, or one by its id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np

from hpcmaf.debate.transcript import Openings, Transcript, Utterance
from hpcmaf.engines.chat import Message
from hpcmaf.errors import StoreError
from hpcmaf.store.damage import REMEDY, reading
from hpcmaf.store.schema import (
    FINISH_REASONS,
    GOLD_COLUMNS,
    INTEGER_COLUMNS,
    KINDS,
    TEXT_COLUMNS,
    StoreInfo,
    decode,
    events,
    read_info,
)
from hpcmaf.tasks.base import Problem

# Problems decoded at a time while streaming.
BLOCK = 32


class Store:
    """A finished store, opened for reading.

    Opening reads the root attributes and the shapes of the columns only; gold
    labels are neither opened nor read unless a call asks for them.

    Parameters
    ----------
    path
        The store's file.

    Raises
    ------
    StoreError
        No such file, a damaged or cut one, a foreign schema or version, or
        columns that do not fit each other.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise StoreError(f"{self.path}: a folder; name a store in it, such as debate.h5")
        if not self.path.is_file():
            raise StoreError(f"{self.path}: no such store; check the path, or rerun the stage that writes it")
        with reading(self.path, "file"):
            # Finished files never change, and locks fail on some network file
            # systems. A cache of two text chunks per column is all that
            # reading in order can use.
            self._file = h5py.File(self.path, "r", locking=False, rdcc_nbytes=1 << 18)
        try:
            with reading(self.path, "root attributes"):
                self.info: StoreInfo = read_info(self._file, str(self.path))
            self._events = events(self.info)
            self._open: dict[str, h5py.Dataset] = {}
            self._rows = len(self.dataset("problems/utterance_offsets")) - 1
            self._check_rows()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the store can no longer be read."""
        self._open.clear()
        self._file.close()

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[Transcript]:
        return self.transcripts()

    @cached_property
    def problem_ids(self) -> list[str]:
        """Ids of all problems, in stored order."""
        return self.texts("problems/id", 0, len(self))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {identifier: row for row, identifier in enumerate(self.problem_ids)}

    def find(self, problem_id: str, gold: bool = False) -> Transcript:
        """One problem's debate by the problem's id."""
        if problem_id not in self._index:
            raise StoreError(
                f"{self.path}: holds no problem {problem_id!r}; "
                f"its ids look like {', '.join(map(repr, self.problem_ids[:3])) or 'nothing, it is empty'}"
            )
        return self.transcript(self._index[problem_id], gold)

    def transcript(self, i: int, gold: bool = False) -> Transcript:
        """The debate in row ``i`` (0-based), with the gold label only if asked for."""
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of a store of {len(self)} problems")
        return self._block(i, i + 1, gold)[0]

    def transcripts(self, gold: bool = False, start: int = 0, block: int = BLOCK) -> Iterator[Transcript]:
        """Yield debates in stored order, from row ``start``, ``block`` problems in memory at a time."""
        for low in range(start, len(self), block):
            yield from self._block(low, min(low + block, len(self)), gold)

    # Columns, for those who need figures and not transcripts.

    def dataset(self, name: str) -> h5py.Dataset:
        """The dataset behind an integer column, or ``data``/``offsets`` of a text column.

        Raises
        ------
        StoreError
            It is missing, or not a one-dimensional array of the schema's type.
        """
        if name not in self._open:
            wanted = _dtype(name)
            with reading(self.path, name):
                found = self._file[name]
                # Not by dtype: numpy has none for some of HDF5's types.
                fits = isinstance(found, h5py.Dataset) and found.id.get_type().equal(h5py.h5t.py_create(wanted))
                if not fits or found.ndim != 1:
                    raise StoreError(f"{self.path}: {name}: not a column of {wanted}; {REMEDY}")
            self._open[name] = found
        return self._open[name]

    def integers(self, name: str, low: int, high: int) -> np.ndarray:
        """Rows ``low:high`` of an integer column, ``int64[high - low]``."""
        dataset = self.dataset(name)
        with reading(self.path, name):
            values = dataset[low:high].astype(np.int64)
        if len(values) != high - low:
            raise StoreError(f"{self.path}: {name}: ends before row {high}; {REMEDY}")
        return values

    def text_bounds(self, name: str, low: int, high: int) -> np.ndarray:
        """Byte offsets of rows ``low:high`` of a text column, ``int64[high - low + 1]``."""
        bounds = self.integers(f"{name}/offsets", low, high + 1)
        size = len(self.dataset(f"{name}/data"))
        if (np.diff(bounds) < 0).any() or bounds[0] < 0 or bounds[-1] > size:
            raise StoreError(f"{self.path}: {name}/offsets: not rising within the {size} bytes of its data; {REMEDY}")
        return bounds

    def texts(self, name: str, low: int, high: int) -> list[str]:
        """Rows ``low:high`` of a text column."""
        bounds = self.text_bounds(name, low, high)
        dataset, ends = self.dataset(f"{name}/data"), (bounds - bounds[0]).tolist()
        with reading(self.path, f"{name}/data"):
            data = dataset[bounds[0] : bounds[-1]].tobytes()
            return [decode(data[start:end]) for start, end in pairwise(ends)]

    def utterance_rows(self) -> int:
        """Number of rows of the utterance table."""
        return len(self.dataset("utterances/problem"))

    def _check_rows(self) -> None:
        """All columns but gold have as many rows as their table."""
        expected = {"problems": self._rows, "utterances": self.utterance_rows()}
        for table, rows in expected.items():
            lengths = {f"{table}/{name}/offsets": rows * each for name, each in TEXT_COLUMNS[table].items()}
            lengths |= {f"{table}/{name}": rows for name in INTEGER_COLUMNS[table]}
            for name, length in lengths.items():
                if name.removesuffix("/offsets") in GOLD_COLUMNS:
                    continue
                wanted = length + name.endswith("offsets")
                if len(self.dataset(name)) != wanted:
                    raise StoreError(
                        f"{self.path}: {name}: {len(self.dataset(name))} rows where its table needs {wanted}; {REMEDY}"
                    )
        if expected["utterances"] != self._rows * len(self._events):
            raise StoreError(
                f"{self.path}: utterances/problem: {expected['utterances']} rows where {self._rows} problems of "
                f"{self.info.agents} agents x {self.info.rounds} rounds have {self._rows * len(self._events)}; {REMEDY}"
            )

    def _block(self, low: int, high: int, gold: bool) -> list[Transcript]:
        identifiers = self.texts("problems/id", low, high)
        questions = self.texts("problems/question", low, high)
        metas = self.texts("problems/meta", low, high)
        golds = self._golds(low, high) if gold else [None] * (high - low)
        bounds = self.integers("problems/utterance_offsets", low, high + 1)
        size = len(self._events)
        if (bounds != np.arange(low, high + 1) * size).any():
            raise StoreError(
                f"{self.path}: problems/utterance_offsets: rows {low}..{high} do not point at "
                f"{size} utterances a problem; {REMEDY}"
            )
        spoken = self._utterances(low, high)
        block = []
        for k in range(high - low):
            with reading(self.path, "problems/meta"):
                meta = json.loads(metas[k])
                if not isinstance(meta, dict):
                    raise ValueError("not a JSON object")
            problem = Problem(identifiers[k], questions[k], golds[k], meta)
            block.append(self._assemble(problem, spoken[k * size : (k + 1) * size]))
        return block

    def _golds(self, low: int, high: int) -> list[str | None]:
        known = self.integers("problems/has_gold", low, high)
        return [text if has else None for text, has in zip(self.texts("problems/gold", low, high), known, strict=True)]

    def _utterances(self, first: int, last: int) -> list[Utterance]:
        """All utterances of problems ``first:last``."""
        size = len(self._events)
        low, high = first * size, last * size
        column = {name: self.integers(f"utterances/{name}", low, high) for name in INTEGER_COLUMNS["utterances"]}
        exchange = self.texts("utterances/exchange", 2 * low, 2 * high)
        answers = self.texts("utterances/answer", low, high)
        self._check_keys(column, first, last)
        if column["finish_reason"].max(initial=0) >= len(FINISH_REASONS):
            raise StoreError(f"{self.path}: utterances/finish_reason: a reason that does not exist; {REMEDY}")
        reasons = [FINISH_REASONS[code] for code in column["finish_reason"]]
        return [
            Utterance(
                KINDS[kind], round, agent, prompt, said, answer if parsed else None, prompted, completed, finish_reason
            )
            for kind, round, agent, prompt, said, answer, parsed, prompted, completed, finish_reason in zip(
                column["kind"].tolist(),
                column["round"].tolist(),
                column["agent"].tolist(),
                exchange[::2],
                exchange[1::2],
                answers,
                column["parsed"].tolist(),
                column["prompt_tokens"].tolist(),
                column["completion_tokens"].tolist(),
                reasons,
                strict=True,
            )
        ]

    def _check_keys(self, column: dict[str, np.ndarray], first: int, last: int) -> None:
        """Each utterance is where its problem, round, kind and agent put it."""
        expected = np.tile(np.array(self._events, dtype=np.int64), (last - first, 1))
        keys = {
            "problem": np.repeat(np.arange(first, last), len(self._events)),
            "round": expected[:, 0],
            "kind": expected[:, 1],
            "agent": expected[:, 2],
        }
        for name, wanted in keys.items():
            wrong = np.flatnonzero(column[name] != wanted)
            if len(wrong):
                row, at = first * len(self._events) + int(wrong[0]), int(wrong[0])
                raise StoreError(
                    f"{self.path}: utterances/{name}: {int(column[name][at])} in row {row} "
                    f"where its place wants {int(wanted[at])}; {REMEDY}"
                )

    def _assemble(self, problem: Problem, spoken: list[Utterance]) -> Transcript:
        agents = self.info.agents
        turns = [tuple(spoken[start : start + agents]) for start in range(0, len(spoken), agents)]
        answers = tuple(turn for turn in turns if turn[0].kind == "answer")
        summaries = tuple(turn for turn in turns if turn[0].kind == "summary")
        return Transcript(problem, answers, summaries, self._openings)

    @cached_property
    def _openings(self) -> Openings:
        try:
            found = json.loads(self.info.openings or "{}")
            return {kind: tuple(Message(**turn) for turn in turns) for kind, turns in found.items()}
        except (ValueError, TypeError, AttributeError):
            raise StoreError(f"{self.path}: root attribute 'openings' is malformed; {REMEDY}") from None


def _dtype(name: str) -> np.dtype:
    table, column, *part = name.split("/")
    if part:
        return np.dtype("<u1" if part == ["data"] else "<i8")
    return np.dtype(INTEGER_COLUMNS[table][column])
