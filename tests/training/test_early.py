"""A base that is read while its process imports is the base that is read afterwards."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hpcmaf.training.early import EarlyWeights, checkpoint_files
from hpcmaf.training.spec import FinetuneJob
from tests.training.models import MAKES


def job(base: Path, **settings) -> FinetuneJob:
    return FinetuneJob(base=str(base), dataset="data", output="out", device="cpu", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("make", list(MAKES))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_the_model_that_is_loaded_otherwise(bases, make, dtype):
    import torch

    from hpcmaf.training.model import load_config, load_model

    wanted, own = getattr(torch, dtype), job(bases[make])
    early = EarlyWeights.of(own, 0)
    assert early is not None
    weights = early.take()
    assert weights and early.take() is None
    made = load_model(own, load_config(own), wanted, early.device, weights)
    usual = load_model(own, load_config(own), wanted)
    assert not weights  # nobody else holds what the model holds
    assert made.config.to_dict() == usual.config.to_dict() and made.name_or_path == usual.name_or_path
    assert type(made) is type(usual) and made.training == usual.training
    left, right = made.state_dict(), usual.state_dict()
    assert left.keys() == right.keys() and all(left[name].dtype == right[name].dtype for name in left)
    assert all(torch.equal(left[name], right[name]) for name in left)
    ids = torch.tensor([[5, 9, 12, 40]])
    assert torch.equal(made(ids).logits, usual(ids).logits)
    tied = made.config.tie_word_embeddings
    assert (made.lm_head.weight is made.get_input_embeddings().weight) == tied == (make == "mistral")


def test_only_the_files_of_the_checkpoint_are_read(tmp_path):
    for name in ("model-1.safetensors", "model-2.safetensors", "consolidated.safetensors"):
        (tmp_path / name).write_bytes(b"")
    assert checkpoint_files(tmp_path) == []
    index = {"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [file.name for file in checkpoint_files(tmp_path)] == ["model-1.safetensors", "model-2.safetensors"]
    (tmp_path / "model-1.safetensors").unlink()
    assert checkpoint_files(tmp_path) == []
    (tmp_path / "model.safetensors.index.json").write_text("{")
    assert checkpoint_files(tmp_path) == checkpoint_files(tmp_path / "nowhere") == []


def test_what_a_job_does_not_want_whole_and_unchanged_is_not_read(bases):
    base = bases["llama"]
    assert EarlyWeights.of(job(base), 0) is not None
    assert EarlyWeights.of(job(base, quantize="fp8"), 0) is not None
    for other in (
        {"tuning": "full"},
        {"zero_stage": 3},
        {"zero_stage": 2, "offload": "optimizer"},
        {"quantize": "4bit"},
        {"trust_remote_code": True},
    ):
        assert EarlyWeights.of(job(base, **other), 0) is None
    assert EarlyWeights.of(replace(job(base), base="owner/name"), 0) is None


def test_a_damaged_file_is_told_and_left_to_those_who_load_it(bases, tmp_path, capfd):
    shutil.copytree(bases["llama"], tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    early = EarlyWeights.of(job(tmp_path / "base"), 0)
    assert early is not None and early.take() is None
    assert capfd.readouterr().out.startswith("weights: not read beside the imports (")
