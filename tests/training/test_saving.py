"""What is published: finite weights, and merged models that say what base and adapter say together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from hpcmaf.errors import DataError, TrainingError
from hpcmaf.training.saving import merge_adapter, on_cpu
from tests.tiny_models import tiny_adapter, tiny_model

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_one_number_that_is_not_finite_is_found(dtype):
    dtype = getattr(torch, dtype)
    fine = torch.linspace(-3e4, 3e4, 1000).to(dtype).view(10, 100)
    others = {"none": torch.zeros(0, 4, dtype=dtype), "count": torch.tensor([1, 2])}
    on_cpu({"a": fine} | others)
    for value in ("nan", "inf", "-inf"):
        for row, column in ((0, 0), (9, 99), (4, 17)):
            damaged = fine.clone()
            damaged[row, column] = float(value)
            with pytest.raises(TrainingError, match="diverged: a holds values that are not finite"):
                on_cpu({"a": damaged} | others)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "base")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_model_is_base_and_adapter(base: Path, tmp_path: Path, dtype: str) -> None:
    wanted = getattr(torch, dtype)
    AutoModelForCausalLM.from_pretrained(base).to(wanted).save_pretrained(base)
    adapter = tiny_adapter(base, tmp_path / "critic-1", seed=3)
    out = merge_adapter(base, adapter, tmp_path / "merged model")
    merged = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert merged.dtype == wanted and not list(out.glob("adapter*")) and list(out.glob("*.safetensors"))
    assert AutoTokenizer.from_pretrained(out).chat_template == AutoTokenizer.from_pretrained(base).chat_template
    ids = torch.tensor([[5, 20, 30, 40]])
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = plain(ids).logits.detach()
    together = PeftModel.from_pretrained(plain, adapter)(ids).logits
    # bfloat16 rounds the merged weights once.
    off = (merged.float()(ids).logits - together).norm() / (together - before).norm()
    assert off < (1e-5 if dtype == "float32" else 0.05)


def test_what_cannot_be_merged_is_said_in_a_line(base: Path, tmp_path: Path) -> None:
    adapter, out = tiny_adapter(base, tmp_path / "adapter", seed=3), tmp_path / "out"
    with pytest.raises(TrainingError, match="nothing: cannot be loaded"):
        merge_adapter(tmp_path / "nothing", adapter, out)
    other = tiny_model(tmp_path / "other", kind="phi3")
    with pytest.raises(DataError, match="does not fit") as refused:
        merge_adapter(other, adapter, out)
    assert "\n" not in str(refused.value)
    assert not out.exists()
