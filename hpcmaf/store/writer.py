"""Transcripts to an HDF5 file, in constant memory and always the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcmaf.debate.transcript import Transcript
from hpcmaf.errors import StoreError
from hpcmaf.files.publish import Manifest, atomic_path, manifest_path, write_manifest
from hpcmaf.store.damage import writing
from hpcmaf.store.schema import (
    FINISH_REASONS,
    GZIP_LEVEL,
    INTEGER_CHUNK,
    INTEGER_COLUMNS,
    KINDS,
    LIBVER,
    MANIFEST_SCHEMA,
    TEXT_CHUNK,
    TEXT_COLUMNS,
    StoreInfo,
    encode,
    utterances,
    write_info,
)
from hpcmaf.store.sink import Sink

# Runs a function in the thread that HDF5 has to itself, and returns its result.
_Call = Callable[..., Any]


def write_store(
    path: Path, info: StoreInfo, transcripts: Iterable[Transcript], extra: Mapping[str, Any] | None = None
) -> Manifest:
    """Write debates to a store, publish it, and describe it by a manifest.

    The bytes depend on ``info`` and on the transcripts and their order alone.
    Memory holds one chunk per column and the set of problem ids.

    Parameters
    ----------
    path
        Where the store appears, whole or not at all.
    info
        What the debates have in common; each is checked against it.
    transcripts
        Debates, already in the order they are to have.
    extra
        Handed on in the manifest.

    Raises
    ------
    StoreError
        A debate of another shape, or a problem that comes twice.
    PlatformError
        The disk does not take it.
    """
    path = Path(path)
    with atomic_path(path) as temporary:
        rows = write_file(temporary, info, transcripts, path)
        retract_manifest(path)
    return write_manifest(path, rows=rows, schema=MANIFEST_SCHEMA, extra=extra)


def retract_manifest(path: Path) -> None:
    """Withdraw an older file's manifest, so that it never describes its successor."""
    manifest_path(path).unlink(missing_ok=True)


def write_file(temporary: Path, info: StoreInfo, transcripts: Iterable[Transcript], target: Path) -> int:
    """Write an unpublished store; errors name ``target``. Returns the number of problems."""
    seen: set[str] = set()
    with _created(temporary, target) as (file, sink, call):
        call(write_info, file, info)
        columns = call(_Columns, file, call)
        for transcript in transcripts:
            identifier = transcript.problem.id
            if identifier in seen:
                raise StoreError(
                    f"{target}: problem {identifier!r} comes twice; give each problem one debate and one id"
                )
            seen.add(identifier)
            columns.append(len(seen) - 1, transcript, info)
            if sink.error is not None:
                break
        columns.finish()
    return len(seen)


@contextmanager
def _created(temporary: Path, target: Path) -> Iterator[tuple[h5py.File, Sink, _Call]]:
    """A new HDF5 file, and the thread in which all HDF5 work on it is to be called.

    A failed write is raised when the file is closed. Python raises interrupts
    in the main thread, in the middle of whatever runs there; inside HDF5 that
    would crash the process, so HDF5 runs elsewhere.
    """
    with writing(target):
        sink = Sink(temporary)
    thread = ThreadPoolExecutor(1, "hdf5")

    def call(work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return thread.submit(work, *arguments, **options).result()

    try:
        file = call(h5py.File, sink, "w", libver=LIBVER)
        try:
            yield file, sink, call
        finally:
            call(file.close)
        with writing(target):
            sink.check()
    finally:
        thread.shutdown(wait=True)
        sink.close()


class _Column:
    """One growing dataset, written in whole chunks."""

    def __init__(self, group: h5py.Group, name: str, dtype: str, chunk: int, call: _Call) -> None:
        self._call = call
        self._dataset = group.create_dataset(
            name,
            shape=(0,),
            maxshape=(None,),
            chunks=(chunk,),
            dtype=dtype,
            compression="gzip",
            compression_opts=GZIP_LEVEL,
            shuffle=np.dtype(dtype).itemsize > 1,
            fletcher32=True,
            track_times=False,
        )
        self._pending = bytearray()
        self._chunk_bytes = chunk * np.dtype(dtype).itemsize
        self._written = 0

    def extend(self, data: bytes) -> None:
        self._pending += data
        whole = len(self._pending) // self._chunk_bytes * self._chunk_bytes
        if whole:
            self._write(whole)

    def finish(self) -> None:
        self._write(len(self._pending))

    def _write(self, size: int) -> None:
        values = np.frombuffer(bytes(self._pending[:size]), dtype=self._dataset.dtype)
        self._call(self._append, values)
        self._written += len(values)
        del self._pending[:size]

    def _append(self, values: np.ndarray) -> None:
        self._dataset.resize((self._written + len(values),))
        self._dataset[self._written :] = values


class _IntegerColumn(_Column):
    def __init__(self, group: h5py.Group, name: str, dtype: str, call: _Call) -> None:
        super().__init__(group, name, dtype, INTEGER_CHUNK, call)
        self._dtype = np.dtype(dtype)

    def append(self, *values: int) -> None:
        self.extend(np.array(values, dtype=self._dtype).tobytes())


class _TextColumn:
    def __init__(self, group: h5py.Group, name: str, call: _Call) -> None:
        column = group.create_group(name)
        self._data = _Column(column, "data", "<u1", TEXT_CHUNK, call)
        self._offsets = _IntegerColumn(column, "offsets", "<i8", call)
        self._end = 0
        self._offsets.append(0)

    def append(self, *texts: str) -> None:
        for text in texts:
            data = encode(text)
            self._end += len(data)
            self._data.extend(data)
            self._offsets.append(self._end)

    def finish(self) -> None:
        self._data.finish()
        self._offsets.finish()


class _Columns:
    """All columns of a store."""

    def __init__(self, file: h5py.File, call: _Call) -> None:
        self._columns: dict[str, _TextColumn | _IntegerColumn] = {}
        for table in TEXT_COLUMNS:
            group = file.create_group(table)
            for name in TEXT_COLUMNS[table]:
                self._columns[f"{table}/{name}"] = _TextColumn(group, name, call)
            for name, dtype in INTEGER_COLUMNS[table].items():
                self._columns[f"{table}/{name}"] = _IntegerColumn(group, name, dtype, call)
        self._end = 0
        self._columns["problems/utterance_offsets"].append(0)

    def append(self, row: int, transcript: Transcript, info: StoreInfo) -> None:
        problem, spoken = transcript.problem, utterances(transcript, info)
        self._end += len(spoken)
        self._add(
            "problems",
            id=[problem.id],
            question=[problem.question],
            # Not escaped to ASCII: a pair of lone surrogates would read back
            # as one character.
            meta=[json.dumps(dict(problem.meta), ensure_ascii=False, sort_keys=True, separators=(",", ":"))],
            gold=[problem.gold or ""],
            has_gold=[problem.gold is not None],
            utterance_offsets=[self._end],
        )
        self._add(
            "utterances",
            problem=[row] * len(spoken),
            kind=[KINDS.index(u.kind) for u in spoken],
            round=[u.round for u in spoken],
            agent=[u.agent for u in spoken],
            exchange=[text for u in spoken for text in (u.prompt, u.text)],
            answer=[u.answer or "" for u in spoken],
            parsed=[u.answer is not None for u in spoken],
            prompt_tokens=[u.prompt_tokens for u in spoken],
            completion_tokens=[u.completion_tokens for u in spoken],
            finish_reason=[FINISH_REASONS.index(u.finish_reason) for u in spoken],
        )

    def _add(self, table: str, **values: list[Any]) -> None:
        for name, column in values.items():
            self._columns[f"{table}/{name}"].append(*column)

    def finish(self) -> None:
        for column in self._columns.values():
            column.finish()
