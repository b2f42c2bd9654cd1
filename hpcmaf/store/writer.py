"""Transcripts to an HDF5 file: built in memory, published as bytes, and always the same bytes.

HDF5 cannot give up a file whose last blocks it failed to write: closing it
fails too, and the process may die of it later. In memory nothing of that
happens, and a full disk is an ordinary error of writing bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcmaf.debate.transcript import Transcript
from hpcmaf.errors import StoreError
from hpcmaf.files.publish import Manifest, atomic_path, manifest_path, write_manifest
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

# Problems encoded at a time.
BLOCK = 32


def write_store(
    path: Path, info: StoreInfo, transcripts: Iterable[Transcript], extra: Mapping[str, Any] | None = None
) -> Manifest:
    """Write debates to a store, publish it, and describe it by a manifest.

    The bytes depend on ``info`` and on the transcripts and their order alone.
    Memory holds the compressed file and the set of problem ids.

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
    OSError
        The disk does not take it.
    """
    path = Path(path)
    with atomic_path(path) as temporary:
        rows = write_file(temporary, info, transcripts, path)
        # Withdrawn, so that it never describes another file than its own.
        manifest_path(path).unlink(missing_ok=True)
    return write_manifest(path, rows=rows, schema=MANIFEST_SCHEMA, extra=extra)


def write_file(temporary: Path, info: StoreInfo, transcripts: Iterable[Transcript], target: Path) -> int:
    """Write an unpublished store; errors name ``target``. Returns the number of problems."""
    seen: set[str] = set()
    with h5py.File(temporary, "w", driver="core", backing_store=False, libver=LIBVER) as file:
        write_info(file, info)
        columns = _create(file)
        rest = iter(transcripts)
        while block := list(islice(rest, BLOCK)):
            for name, values in _rows(len(seen), block, info).items():
                columns[name].append(values)
            for identifier in (transcript.problem.id for transcript in block):
                if identifier in seen:
                    raise StoreError(
                        f"{target}: problem {identifier!r} comes twice; give each problem one debate and one id"
                    )
                seen.add(identifier)
        file.flush()
        image = file.id.get_file_image()
    temporary.write_bytes(image)
    return len(seen)


class _Column:
    """A column of integers that grows."""

    def __init__(self, group: h5py.Group, name: str, dtype: str, chunk: int = INTEGER_CHUNK) -> None:
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

    def append(self, values: Sequence[int] | np.ndarray) -> None:
        rows = len(self._dataset)
        self._dataset.resize((rows + len(values),))
        self._dataset[rows:] = np.asarray(values, dtype=self._dataset.dtype)


class _TextColumn:
    """A column of texts that grows."""

    def __init__(self, group: h5py.Group, name: str) -> None:
        column = group.create_group(name)
        self._data = _Column(column, "data", "<u1", TEXT_CHUNK)
        self._offsets = _Column(column, "offsets", "<i8")
        self._offsets.append([0])
        self._end = 0

    def append(self, texts: Sequence[str]) -> None:
        encoded = [encode(text) for text in texts]
        ends = self._end + np.cumsum([len(data) for data in encoded])
        self._data.append(np.frombuffer(b"".join(encoded), dtype=np.uint8))
        self._offsets.append(ends)
        self._end = int(ends[-1])


def _create(file: h5py.File) -> dict[str, _Column | _TextColumn]:
    columns: dict[str, _Column | _TextColumn] = {}
    for table in TEXT_COLUMNS:
        group = file.create_group(table)
        columns |= {f"{table}/{name}": _TextColumn(group, name) for name in TEXT_COLUMNS[table]}
        columns |= {f"{table}/{name}": _Column(group, name, dtype) for name, dtype in INTEGER_COLUMNS[table].items()}
    columns["problems/utterance_offsets"].append([0])
    return columns


def _rows(first: int, block: Sequence[Transcript], info: StoreInfo) -> dict[str, Sequence[Any]]:
    """Values of all columns for problems ``first``, ``first + 1``, ..."""
    problems = [transcript.problem for transcript in block]
    turns = [utterances(transcript, info) for transcript in block]
    flat = [utterance for spoken in turns for utterance in spoken]
    each = len(turns[0])
    return {
        "problems/id": [problem.id for problem in problems],
        "problems/question": [problem.question for problem in problems],
        # Not escaped to ASCII: a pair of lone surrogates would read back as one character.
        "problems/meta": [
            json.dumps(dict(problem.meta), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
            for problem in problems
        ],
        "problems/gold": [problem.gold or "" for problem in problems],
        "problems/has_gold": [problem.gold is not None for problem in problems],
        "problems/utterance_offsets": [each * (first + k + 1) for k in range(len(block))],
        "utterances/problem": [first + k for k in range(len(block)) for _ in range(each)],
        "utterances/kind": [KINDS.index(u.kind) for u in flat],
        "utterances/round": [u.round for u in flat],
        "utterances/agent": [u.agent for u in flat],
        "utterances/exchange": [text for u in flat for text in (u.prompt, u.text)],
        "utterances/answer": [u.answer or "" for u in flat],
        "utterances/parsed": [u.answer is not None for u in flat],
        "utterances/prompt_tokens": [u.prompt_tokens for u in flat],
        "utterances/completion_tokens": [u.completion_tokens for u in flat],
        "utterances/finish_reason": [FINISH_REASONS.index(u.finish_reason) for u in flat],
    }
