"""Damage of every kind is found, and named with its remedy."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from hpcmaf.cli.verify import command
from hpcmaf.errors import PlatformError, StoreError
from hpcmaf.files.publish import manifest_path, read_manifest, write_json, write_manifest
from hpcmaf.store.merge import merge
from hpcmaf.store.reader import Store, reading
from hpcmaf.store.schema import DATASETS
from hpcmaf.store.verify import verify
from tests.store.conftest import debate, shards

# They say what the place in the table says as well.
NEVER_READ = {"problems/utterance_offsets", *(f"utterances/{name}" for name in ("problem", "kind", "round", "agent"))}


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def redescribe(path: Path, rows: int = 40) -> None:
    """A manifest that fits the damaged file, so that only its content can tell."""
    write_manifest(path, rows=rows, schema="hpcmaf-debate/1")


def alter(path: Path, dataset: str, change) -> None:
    """Replace a dataset's values, and let the manifest agree."""
    with h5py.File(path, "r+") as file:
        values = change(file[dataset][:])
        file[dataset].resize(values.shape)
        file[dataset][:] = values
    redescribe(path)


def one_line(findings: list[str]) -> str:
    [line] = findings
    assert "\n" not in line and "; " in line
    return line


def test_a_flipped_bit_never_reads_as_another_debate(store: Path) -> None:
    """Without any manifest: the file's own checksums cover metadata and data."""
    draw = random.Random(8)
    whole, debates = store.read_bytes(), [debate(row) for row in range(40)]
    refused = 0
    for offset in draw.sample(range(len(whole)), 120):
        flip(store, offset, draw.randrange(8))
        try:
            with Store(store) as opened:
                assert list(opened.transcripts(gold=True)) == debates, offset
        except StoreError as error:
            assert str(error).startswith(f"{store}: ")
            assert "\n" not in str(error)
            refused += 1
        store.write_bytes(whole)
    assert refused > 60


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_flipped_bit_names_its_dataset(store: Path, dataset: str) -> None:
    with h5py.File(store, "r") as file:
        chunk = file[dataset].id.get_chunk_info(0)
    flip(store, chunk.byte_offset + chunk.size // 2)
    first, *rest = verify(store)
    assert "sha256" in first
    assert [finding.removeprefix(f"{store}: ").split(":")[0] for finding in rest] == [dataset]
    redescribe(store)
    assert dataset in one_line(verify(store))
    if dataset not in NEVER_READ:
        with pytest.raises(StoreError, match=dataset), Store(store) as opened:
            list(opened.transcripts(gold=True))


@pytest.mark.parametrize("keep", [0, 1, 100, 0.3, 0.9, -1])
def test_a_cut_file_is_found(store: Path, keep: float) -> None:
    size = store.stat().st_size
    os.truncate(store, int(size * keep) if isinstance(keep, float) else keep % size)
    assert any("bytes where its manifest says" in finding for finding in verify(store))
    with pytest.raises(StoreError, match=str(store)):
        Store(store)


def test_files_that_are_no_stores(tmp_path: Path) -> None:
    text, foreign, missing = tmp_path / "a.h5", tmp_path / "b.h5", tmp_path / "c.h5"
    text.write_text("not HDF5")
    with h5py.File(foreign, "w") as file:
        file["x"] = 1
    for path, what in [(text, "file"), (foreign, "schema None"), (missing, "no such store")]:
        with pytest.raises(StoreError, match=what):
            Store(path)
    assert {finding.split(": ")[0] for finding in verify(tmp_path)} == {str(text), str(foreign)}
    with pytest.raises(StoreError, match="no such file"):
        verify(missing)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="neither stores nor manifests"):
        verify(tmp_path / "empty")


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("version", 2, "schema version 2 where this program knows 1"),
        ("version", 0, "schema version 0"),
        ("schema", np.bytes_(b"other"), "schema 'other' is not"),
        ("agents", 4, "721 rows where its table needs 961"),
        ("agents", np.bytes_(b"many"), "invalid literal for int"),
        ("task", None, "missing 1 required positional argument: 'task'"),
    ],
)
def test_foreign_attributes_are_refused(store: Path, attribute: str, value: object, message: str) -> None:
    with h5py.File(store, "r+") as file:
        del file.attrs[attribute]
        if value is not None:
            file.attrs[attribute] = value
    redescribe(store)
    assert message in one_line(verify(store))
    with pytest.raises(StoreError, match=message):
        Store(store)


@pytest.mark.parametrize(
    ("dataset", "change", "message"),
    [
        ("utterances/exchange/data", lambda v: np.where(v == ord("="), 0xFF, v), "utterances/exchange/data: 'utf-8'"),
        ("problems/question/offsets", lambda v: v[:-1], "40 rows where its table needs 41"),
        ("utterances/parsed", lambda v: v[:-1], "359 rows where its table needs 360"),
        ("problems/utterance_offsets", lambda v: v[:-1], "problems/id/offsets: 41 rows where its table needs 40"),
        ("problems/meta/data", lambda v: np.where(v == ord("{"), ord("["), v), "problems/meta"),
    ],
)
def test_content_that_contradicts_itself_is_found(store: Path, dataset: str, change, message: str) -> None:
    """The checksums fit, the manifest fits: only the meaning is wrong."""
    alter(store, dataset, change)
    assert message in one_line(verify(store))


def test_manifests_that_disagree_are_found(store: Path) -> None:
    manifest = read_manifest(store)
    assert manifest is not None
    for change, message in [
        ({"rows": 39}, "40 problems where its manifest says 39"),
        ({"sha256": "0" * 64}, "content differs"),
        ({"bytes": 1}, "bytes where its manifest says 1"),
    ]:
        write_json(manifest_path(store), manifest.model_dump(by_alias=True) | change)
        assert message in one_line(verify(store))
    manifest_path(store).write_text("{")
    assert any("not a manifest" in finding for finding in verify(store))
    manifest_path(store).unlink()
    assert "never finished" in one_line(verify(store))


def test_gaps_leftovers_and_every_file_with_a_manifest_are_checked(tmp_path: Path) -> None:
    folder = tmp_path / "it01" / "debate"
    paths = shards(folder, *(range(3 * k, 3 * k + 3) for k in range(4)))
    merge(paths, tmp_path / "it01" / "debate.h5")
    dataset = tmp_path / "it01" / "generator-0.jsonl"
    dataset.write_text("{}\n")
    write_manifest(dataset, rows=1, schema="messages/1")
    assert verify(folder) == verify(tmp_path) == []
    dataset.write_text("{ }")
    assert one_line(verify(tmp_path)).startswith(str(dataset))

    paths[2].unlink()
    assert "missing although its manifest exists" in one_line(verify(folder))
    manifest_path(paths[2]).unlink()
    assert one_line(verify(folder)).startswith(f"{folder}: shards before shard-00003.h5 are missing")

    leftover = folder / ".shard-00003.h5.0123456789ab.tmp"
    leftover.write_bytes(b"half")
    assert verify(folder)[-1].startswith(f"{leftover}: temporary of a writer")


def test_command_line(store: Path) -> None:
    runner = CliRunner()
    sound = runner.invoke(command, [str(store)])
    assert (sound.exit_code, sound.output) == (0, f"ok: {store}\n")
    assert verify(manifest_path(store)) == verify(store.parent) == []
    flip(store, store.stat().st_size // 2)
    damaged = runner.invoke(command, [str(store)])
    assert damaged.exit_code == StoreError.exit_code
    assert damaged.output.startswith(f"{store}: content differs from its manifest")
    # Also as a program: the group must hand the code on.
    program = [sys.executable, "-m", "hpcmaf", "verify", str(store)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (StoreError.exit_code, damaged.output)
    nothing = runner.invoke(command, [str(store.parent / "nowhere")])
    assert isinstance(nothing.exception, StoreError)


# --- what is not damage -------------------------------------------------------------

# Reading it fails with EIO, as of a disk or a server that is not well.
BROKEN_DISK = Path("/proc/self/mem")


def test_a_disk_that_fails_is_no_damage(store: Path) -> None:
    """From the first byte on, and once the file is open already."""
    with Store(store) as opened:
        descriptor = os.open(BROKEN_DISK, os.O_RDONLY)
        os.dup2(descriptor, opened._file.id.get_vfd_handle())
        os.close(descriptor)
        with pytest.raises(PlatformError) as caught:
            list(opened.transcripts())
    store.unlink()
    store.symlink_to(BROKEN_DISK)
    with pytest.raises(PlatformError) as again:
        Store(store)
    for error in (caught.value, again.value):
        assert (error.kind, error.errno) == ("hardware", errno.EIO)
        assert "Input/output error" in str(error) and str(store) in str(error)
    finding = verify(store)[-1]
    assert "Input/output error" in finding and "delete" not in finding


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EACCES, errno.EMFILE, errno.ENOSPC, errno.ETIMEDOUT])
@pytest.mark.parametrize("kind", [OSError, KeyError, RuntimeError])
def test_an_error_of_the_system_says_so(number: int, kind: type[Exception], tmp_path: Path) -> None:
    """HDF5 has the number in its text alone, and h5py picks the class by what it was doing."""
    text = f"Unable to open object (file read failed: time = now\n, errno = {number}, error message = 'x')"
    with pytest.raises(PlatformError) as caught, reading(tmp_path / "a.h5", "problems/id"):
        raise kind(text)
    assert caught.value.errno == number and os.strerror(number) in str(caught.value)
    assert (caught.value.kind == "hardware") == (number in {errno.ESTALE, errno.ETIMEDOUT})
    assert "delete" not in str(caught.value) and "damage" not in str(caught.value)


@pytest.mark.parametrize("kind", [TypeError, AttributeError, IndexError, AssertionError, MemoryError])
def test_a_defect_of_ours_is_no_damage(kind: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(kind, match="ours"), reading(tmp_path / "a.h5", "problems/id"):
        raise kind("ours")
