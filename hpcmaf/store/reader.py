"""An HDF5 file to transcripts: in order and streaming, or one by its id."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import NoReturn, Self

import h5py
import numpy as np

from hpcmaf.debate.transcript import Openings, Transcript, Utterance
from hpcmaf.errors import HpcmafError, StoreError, brief, errno_of, system_error
from hpcmaf.models.chat import Message
from hpcmaf.store import schema
from hpcmaf.store.schema import DATASETS, FINISH_REASONS, KINDS, TEXTS, StoreInfo, decode
from hpcmaf.tasks.grader import Grader
from hpcmaf.tasks.problems import Problem

REMEDY = "delete it and its manifest, and rerun the stage that wrote it"

# An address that no file can have comes from a damaged one.
_OF_DAMAGE = {None, errno.EINVAL, errno.EOVERFLOW}


@contextmanager
def reading(path: Path, dataset: str) -> Iterator[None]:
    """Turn what h5py raises inside into one line that names the file.

    Raises
    ------
    StoreError
        The file is damaged.
    PlatformError
        It may be whole, but could not be read: the operating system said no.
    """
    try:
        yield
    except HpcmafError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError) as error:  # of flipped bits, cut ends, impossible text
        number = errno_of(error)  # where HDF5 reads metadata, h5py has it in its text alone
        if number not in _OF_DAMAGE:
            raise system_error(OSError(number, os.strerror(number), str(path))) from error
        raise StoreError(f"{path}: {dataset}: {brief(error)}; {REMEDY}") from error


class Store:
    """A finished store, opened for reading; gold labels are neither opened nor read unless a call asks for them.

    Raises
    ------
    StoreError
        No such file, a damaged or cut one, an unknown schema or version, or columns that do not fit each other.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise StoreError(f"{self.path}: a folder; name a store in it, such as debate.h5")
        if not self.path.is_file():
            raise StoreError(f"{self.path}: no such store; check the path, or rerun the stage that writes it")
        with reading(self.path, "file"):
            # Finished files never change, and locks fail on some network file systems. A cache of two text chunks per
            # column is all that reading in order can use.
            self._file = h5py.File(self.path, "r", locking=False, rdcc_nbytes=1 << 18)
        try:
            with reading(self.path, "root attributes"):
                self.info: StoreInfo = schema.read_info(self._file, str(self.path))
            self._grader = Grader(self.info.grader, self.info.sandbox or "namespaces")
            self._events = np.array(schema.events(self.info), dtype=np.int64)
            self._open: dict[str, h5py.Dataset] = {}
            self._rows = len(self.dataset("problems/utterance_offsets")) - 1
            self.check_rows(name for name in DATASETS if not name.startswith(schema.GOLD))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
        return self._texts("problems/id", 0, len(self))

    def find(self, problem_id: str, gold: bool = False) -> Transcript:
        """One problem's debate by the problem's id."""
        if problem_id not in self.problem_ids:
            raise StoreError(
                f"{self.path}: holds no problem {problem_id!r}; "
                f"its ids look like {', '.join(map(repr, self.problem_ids[:3])) or 'nothing, it is empty'}"
            )
        row = self.problem_ids.index(problem_id)
        return self._block(row, row + 1, gold)[0]

    def transcripts(self, gold: bool = False) -> Iterator[Transcript]:
        """Yield debates in stored order, a few in memory at a time."""
        for low in range(0, len(self), schema.BLOCK):
            yield from self._block(low, min(low + schema.BLOCK, len(self)), gold)

    def check_rows(self, names: Iterable[str]) -> None:
        """Refuse columns that do not fit their tables."""
        table = {"problems": len(self), "utterances": len(self) * len(self._events)}
        for name in (name for name in names if not name.endswith("/data")):
            rows = table[name.split("/")[0]] * TEXTS.get(name.removesuffix("/offsets"), 1) + name.endswith("offsets")
            if len(self.dataset(name)) != rows:
                self.refuse(name, f"{len(self.dataset(name))} rows where its table needs {rows}")

    def dataset(self, name: str) -> h5py.Dataset:
        """The dataset behind an integer column, or ``data``/``offsets`` of a text column."""
        if name not in self._open:
            with reading(self.path, name):
                self._open[name] = self._file[name]
        return self._open[name]

    def refuse(self, dataset: str, what: str) -> NoReturn:
        """Raise a StoreError that names the file and how to get a new one."""
        raise StoreError(f"{self.path}: {dataset}: {what}; {REMEDY}")

    def _integers(self, name: str, low: int, high: int) -> np.ndarray:
        with reading(self.path, name):
            return self.dataset(name)[low:high]

    def _texts(self, name: str, low: int, high: int) -> list[str]:
        bounds = self._integers(f"{name}/offsets", low, high + 1)
        with reading(self.path, f"{name}/data"):
            data = self.dataset(f"{name}/data")[bounds[0] : bounds[-1]].tobytes()
            return [decode(data[start:end]) for start, end in pairwise((bounds - bounds[0]).tolist())]

    def _block(self, low: int, high: int, gold: bool) -> list[Transcript]:
        with reading(self.path, "problems/meta"):
            metas = [json.loads(text) for text in self._texts("problems/meta", low, high)]
            if not all(isinstance(meta, dict) for meta in metas):
                raise ValueError("not a JSON object")
        golds: list[str | None] = [None] * (high - low)
        if gold:
            known = self._integers("problems/has_gold", low, high)
            texts = self._texts("problems/gold", low, high)
            golds = [text if has else None for text, has in zip(texts, known, strict=True)]
        columns = (self._texts(f"problems/{name}", low, high) for name in ("id", "question"))
        problems = [Problem(*values) for values in zip(*columns, golds, metas, strict=True)]
        turns = iter(self._utterances(low, high))
        return [self._debate(problem, list(islice(turns, len(self._events)))) for problem in problems]

    def _debate(self, problem: Problem, turns: list[Utterance]) -> Transcript:
        def rounds(kind: str) -> tuple[tuple[Utterance, ...], ...]:
            of_kind, agents = [turn for turn in turns if turn.kind == kind], self.info.agents
            return tuple(tuple(of_kind[first : first + agents]) for first in range(0, len(of_kind), agents))

        judgement = next((turn for turn in turns if turn.kind == "judge"), None)
        settings = (self._openings, self._grader, self._weights)
        return Transcript(problem, rounds("answer"), rounds("summary"), *settings, judgement)

    def _utterances(self, first: int, last: int) -> list[Utterance]:
        """All utterances of problems ``first:last``."""
        low, high = first * len(self._events), last * len(self._events)
        # What the other columns say of an utterance, its place in the table says as well.
        names = ("parsed", "prompt_tokens", "completion_tokens", "finish_reason")
        column = {name: self._integers(f"utterances/{name}", low, high) for name in names}
        round, kind, agent = np.tile(self._events, (last - first, 1)).T
        exchange = self._texts("utterances/exchange", 2 * low, 2 * high)
        answers = self._texts("utterances/answer", low, high)
        columns = (
            [KINDS[code] for code in kind],
            round.tolist(),
            agent.tolist(),
            exchange[::2],
            exchange[1::2],
            [answer if parsed else None for answer, parsed in zip(answers, column["parsed"], strict=True)],
            column["prompt_tokens"].tolist(),
            column["completion_tokens"].tolist(),
            [FINISH_REASONS[code] for code in column["finish_reason"]],
        )
        return [Utterance(*values) for values in zip(*columns, strict=True)]

    @cached_property
    def _openings(self) -> Openings:
        found = json.loads(self.info.openings or "{}")
        return {kind: tuple(Message(**turn) for turn in turns) for kind, turns in found.items()}

    @cached_property
    def _weights(self) -> tuple[float, ...]:
        return tuple(json.loads(self.info.weights or "[]"))
