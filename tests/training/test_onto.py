"""Checkpoints read by several threads hold what safetensors itself finds in them."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from hpcmaf.training import layout, onto
from hpcmaf.training.warm import attention_shape, begin_cuda, load_kernels

CPU = torch.device("cpu")


def write_some(folder) -> dict[str, torch.Tensor]:
    """Two files of tensors of many kinds; what is in them."""
    torch.manual_seed(0)
    tensors = {
        "a": torch.randn(37, 11),
        "b": torch.randn(129).to(torch.bfloat16),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False, True]),
    }
    whole = {"c": torch.arange(1001, dtype=torch.int16)}
    save_file(tensors, folder / "1.safetensors", metadata={"format": "pt"})
    save_file(whole, folder / "2.safetensors")
    return load_file(folder / "1.safetensors") | whole


def alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Same names, types, shapes and bits."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in other
    )


@pytest.mark.parametrize("chunk", [64, 1000, 1 << 20])
def test_it_is_what_safetensors_reads(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(onto, "_CHUNK", chunk)
    expected = write_some(tmp_path)
    assert alike(onto.read_onto([tmp_path / "1.safetensors", tmp_path / "2.safetensors"], CPU), expected)


def test_a_file_in_memory_is_cut_into_what_safetensors_reads(tmp_path):
    """As a GPU's memory is, into which another process has read it."""
    expected, made = write_some(tmp_path), {}
    save_file({}, tmp_path / "3.safetensors")
    for name in ("1.safetensors", "2.safetensors", "3.safetensors"):
        file = tmp_path / name
        content = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
        entries = layout.stored(file)
        parts = layout.cut(content, entries)
        made |= {entry.name: entry.of(part) for entry, part in zip(entries, parts, strict=True)}
        # A model gives its tensors back one by one, as they are rounded.
        assert all(part.untyped_storage().nbytes() == part.nbytes for part in parts)
    assert alike(made, expected)


def test_every_type_is_the_one_that_safetensors_means(tmp_path):
    tensors = {name: torch.ones(3).to(dtype) for name, dtype in layout._DTYPES.items()}
    save_file(tensors, tmp_path / "all.safetensors")
    assert all(
        torch.equal(made, tensors[name]) for name, made in onto.read_onto([tmp_path / "all.safetensors"], CPU).items()
    )


@pytest.mark.parametrize("kept", [4, 100, -50])
def test_a_torn_file_is_refused(tmp_path, kept):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(100), "b": torch.ones(100)}, file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises((OSError, ValueError)):
        onto.read_onto([file], CPU)


def test_a_file_that_shrinks_meanwhile_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(1000)}, file)
    monkeypatch.setattr(layout.os, "fstat", lambda descriptor: type("Stat", (), {"st_size": 10**9}))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(OSError, match="ends too early"):
        onto.read_onto([file], CPU)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}},
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": 1},
        [],
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header):
    file, text = tmp_path / "model.safetensors", json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        onto.read_onto([file], CPU)


def test_unknown_types_are_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(4).to(torch.float8_e4m3fn)}, file)
    with pytest.raises(ValueError, match="F8_E4M3"):
        onto.read_onto([file], CPU)


@pytest.mark.parametrize(
    ("dtype", "config", "shape"),
    [
        ("auto", {"dtype": "bfloat16"}, ("bfloat16", 32, 8, 128)),
        ("auto", {"torch_dtype": "float16", "head_dim": 64}, ("bfloat16", 32, 8, 64)),
        ("bfloat16", {"dtype": "float32"}, ("bfloat16", 32, 8, 128)),
        ("auto", {"dtype": "float32"}, None),
        ("auto", {}, None),
        ("bfloat16", {"num_attention_heads": None}, None),
    ],
)
def test_what_attention_looks_like(tmp_path, dtype, config, shape):
    plain = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
    (tmp_path / "config.json").write_text(json.dumps(plain | config))
    assert attention_shape(tmp_path, dtype) == shape
    assert attention_shape(tmp_path / "nowhere", dtype) is None


def test_without_a_gpu_nothing_is_begun(capfd):
    begin_cuda(0)
    load_kernels(CPU, "bfloat16", 4, 2, 8)
    told = capfd.readouterr().out
    assert told.startswith("kernels: not loaded beside the imports (") and told.count("\n") == 1
