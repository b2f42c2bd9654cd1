"""Transcripts to an HDF5 file: built in memory, published as bytes, and always the same bytes.

HDF5 cannot give up a file whose last blocks it failed to write: closing it fails too, and the process may die of it
later. In memory nothing of that happens, and a full disk is an ordinary error of writing bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcmaf.debate.transcript import Transcript
from hpcmaf.errors import StoreError
from hpcmaf.files.publish import Manifest, atomic_path, manifest_path, write_manifest
from hpcmaf.store import schema
from hpcmaf.store.schema import DATASETS, FINISH_REASONS, KINDS, TEXTS, StoreInfo, encode


def write_store(
    path: Path, info: StoreInfo, transcripts: Iterable[Transcript], check: Callable[[Path], object] | None = None
) -> Manifest:
    """Write debates to a store, publish it, and describe it by a manifest.

    The bytes depend on ``info`` and on the transcripts and their order alone. Memory holds the compressed file.

    Parameters
    ----------
    path
        Where the store appears, whole or not at all.
    info
        What the debates have in common; each is checked against it.
    check
        Called with the written file before it is published.

    Raises
    ------
    StoreError
        A debate of another shape, or a problem that comes twice.
    OSError
        The disk does not take it.
    """
    path = Path(path)
    with atomic_path(path) as temporary:
        rows = _write(temporary, info, transcripts, path)
        if check is not None:
            check(temporary)
        # Withdrawn, so that it never describes another file than its own.
        manifest_path(path).unlink(missing_ok=True)
    return write_manifest(path, rows=rows, schema=schema.MANIFEST_SCHEMA)


def _write(temporary: Path, info: StoreInfo, transcripts: Iterable[Transcript], target: Path) -> int:
    """Write an unpublished store; errors name ``target``. Returns the number of problems."""
    seen: set[str] = set()
    image = io.BytesIO()
    with h5py.File(image, "w", libver=schema.LIBVER) as file:
        schema.write_info(file, info)
        datasets = {name: _create(file, name, dtype) for name, dtype in DATASETS.items()}
        for name in (*(f"{text}/offsets" for text in TEXTS), "problems/utterance_offsets"):
            _append(datasets[name], [0])
        ends = dict.fromkeys(TEXTS, 0)
        rest = iter(transcripts)
        while block := list(islice(rest, schema.BLOCK)):
            for name, values in _rows(len(seen), block, info).items():
                if name in TEXTS:
                    encoded = [encode(text) for text in values]
                    _append(datasets[f"{name}/data"], np.frombuffer(b"".join(encoded), dtype=np.uint8))
                    bounds = ends[name] + np.cumsum([len(data) for data in encoded])
                    _append(datasets[f"{name}/offsets"], bounds)
                    ends[name] = bounds[-1]
                else:
                    _append(datasets[name], values)
            for problem in (transcript.problem for transcript in block):
                if problem.id in seen:
                    raise StoreError(f"{target}: problem {problem.id!r} comes twice; give each problem one id")
                seen.add(problem.id)
    # Not the image of a file that is still open, as HDF5's core driver has it: releases before 2.0 cannot read that.
    temporary.write_bytes(image.getbuffer())
    return len(seen)


def _create(file: h5py.File, name: str, dtype: str) -> h5py.Dataset:
    return file.create_dataset(
        name,
        shape=(0,),
        maxshape=(None,),
        chunks=(schema.TEXT_CHUNK if name.endswith("/data") else schema.INTEGER_CHUNK,),
        dtype=dtype,
        compression="gzip",
        compression_opts=schema.GZIP_LEVEL,
        shuffle=np.dtype(dtype).itemsize > 1,
        fletcher32=True,
        track_times=False,
    )


def _append(dataset: h5py.Dataset, values: Sequence[int] | np.ndarray) -> None:
    rows = len(dataset)
    dataset.resize((rows + len(values),))
    dataset[rows:] = np.asarray(values, dtype=dataset.dtype)


def _rows(first: int, block: Sequence[Transcript], info: StoreInfo) -> dict[str, Sequence[Any]]:
    """Values of all columns for problems ``first``, ``first + 1``, ..."""
    problems = [transcript.problem for transcript in block]
    turns = [schema.utterances(transcript, info) for transcript in block]
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
