"""Parquet and arrow files, and data sets of the Hugging Face hub.

What reads them is an extra: a run never needs it, only ``hpcmaf data
prepare`` on such sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from hpcmaf.errors import DataError, PlatformError, errno_of
from hpcmaf.files.hub import SECONDS, ask_hub, reason
from hpcmaf.tasks.rows import SPLIT_NAMES, Row

_BATCH = 1024


def read_parquet(path: Path) -> Iterator[tuple[str, str | None, Mapping[str, Any]]]:
    """Read a parquet file batch by batch."""
    _require("pyarrow", str(path))
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from _rows(path, file.iter_batches(batch_size=_BATCH))
    except (pa.ArrowException, OSError) as error:
        _raise_torn(path, error)


def read_arrow(path: Path) -> Iterator[tuple[str, str | None, Mapping[str, Any]]]:
    """Read an arrow file, in the stream form that ``datasets`` writes or the file form."""
    _require("pyarrow", str(path))
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            try:
                reader = pa.ipc.open_stream(source)
            except pa.ArrowInvalid:
                source.seek(0)
                whole = pa.ipc.open_file(source)
                yield from _rows(path, (whole.get_batch(number) for number in range(whole.num_record_batches)))
            else:
                yield from _rows(path, reader)
    except (pa.ArrowException, OSError) as error:
        _raise_torn(path, error)


def _rows(path: Path, batches: Any) -> Iterator[tuple[str, str | None, Mapping[str, Any]]]:
    number = 0
    for batch in batches:
        for values in batch.to_pylist():
            number += 1
            yield f"{path}, row {number}", None, values


def read_hub(name: str, preferred: Sequence[str], split: str | None) -> Iterator[Row]:
    """Load a data set by hub id, or from a folder that ``datasets`` understands.

    Parameters
    ----------
    name
        E.g. ``"openai/gsm8k"``.
    preferred
        Configurations to take alone where they exist; without any of them all
        are read, each as a subject.
    split
        What to call its only split, where it has a name of its own.

    Raises
    ------
    PlatformError
        ``datasets`` is not installed.
    DataError
        The hub does not deliver, or the splits have unknown names.
    """
    try:
        if not Path(name).exists():
            ask_hub(lambda hub: hub.dataset_info(name, timeout=SECONDS))
        datasets = _require("datasets", name)
        configs = datasets.get_dataset_config_names(name)
        chosen = [config for config in (*preferred, "default") if config in configs][:1] or configs
        loaded = {config: datasets.load_dataset(name, config) for config in chosen}
    except PlatformError:
        raise
    # The client raises its own, requests', httpx' and builtin exceptions alike.
    except Exception as error:
        raise DataError(
            f"{name}: neither a path here nor to be had from the hub ({reason(error)}); "
            "check the name and the network, or download it elsewhere and pass the folder"
        ) from error
    known = False
    for config, splits in loaded.items():
        group = "" if len(chosen) == 1 else config
        for found in splits:
            called = found if found in SPLIT_NAMES else split if len(splits) == 1 and split else None
            if called is None:
                continue
            known = True
            for index, values in enumerate(splits[found]):
                where = f"{name} ({config}), {found}, row {index + 1}"
                yield Row(where, values, called, group=group, index=index)
    if not known:
        names = ", ".join(sorted({found for splits in loaded.values() for found in splits}))
        raise DataError(f"{name}: its splits are called {names}; pass --split train or --split test for a single one")


def _require(package: str, what: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise PlatformError(f"{what}: reading it needs {package}; install it with pip install 'hpcmaf[hub]'") from error


def _raise_torn(path: Path, error: Exception) -> NoReturn:
    if errno_of(error) is not None:
        raise error  # of the file system, not of the file
    raise DataError(f"{path}: torn or not what its name says ({reason(error)}); fetch it again") from error
