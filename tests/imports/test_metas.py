"""Torch without its Python answers for tensors without memory: what models ask for, and all for whoever asks more."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

BEGIN = """
import sys
from hpcmaf.imports.metas import Metas, NAME, metas, metas_later, with_metas
metas_later()
import torch
absent = lambda: isinstance(sys.modules[NAME], Metas) and "torch._prims" not in sys.modules
assert absent()
"""
# Whoever makes random numbers, and whoever asks for something that has no other answer.
ASKED = """
drawn = [torch.rand(3, generator=torch.Generator().manual_seed(1)).tolist() for _ in range(2)]
assert drawn[0] == drawn[1]
ask = lambda: torch.fft.fft(torch.empty(4, 6, device="meta"))
try:
    ask()
    raise SystemExit("has an answer")
except NotImplementedError:
    pass
assert absent()
assert with_metas(ask).shape == (4, 6) and not absent() and ask().shape == (4, 6)
assert not metas() and torch.Generator() is not None
try:
    with_metas(lambda: (_ for _ in ()).throw(NotImplementedError("own")))
except NotImplementedError as error:
    assert str(error) == "own"
# What is known without is not answered twice.
assert torch.where(torch.ones(3, 1, device="meta") > 0, 1.0, torch.empty(4, device="meta")).shape == (3, 4)
"""
# Fake tensors look at what is registered instead of asking.
FAKED = """
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    left, right = torch.linalg.qr(torch.empty(5, 3))
    assert (left.shape, right.shape) == ((5, 3), (3, 3))
assert not absent()
"""
COMPILED = """
function = torch.compile(lambda x: torch.where(x > 0, x, 2.0 * x).sum(), backend="aot_eager")
assert function(torch.tensor([1.0, -1.0])).item() == -1.0 and not absent()
"""
# Whichever of them is imported first; each is loaded once.
IMPORTED = """
import importlib
module = importlib.import_module(sys.argv[1])
assert not absent() and sys.modules[sys.argv[1]] is module and module.__spec__.name == sys.argv[1]
assert module.__spec__.loader.__class__.__name__ == "SourceFileLoader"
importlib.import_module("torch._inductor")
"""
# All the kinds of positions that models have, made as models are before they take weights.
ROTARY = """
from hpcmaf.imports.light import lightly
with lightly():
    from transformers import LlamaConfig, LlamaForCausalLM
small = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=50)
kinds = {
    "default": {}, "linear": {"factor": 2.0}, "dynamic": {"factor": 2.0}, "yarn": {"factor": 2.0},
    "longrope": {"factor": 2.0, "short_factor": [1.0] * 8, "long_factor": [1.0] * 8},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
}
for kind, more in kinds.items():
    rope = {"rope_type": kind, "rope_theta": 1e4, **more}
    config = LlamaConfig(**small, max_position_embeddings=64, rope_parameters=rope)
    with torch.device("meta"):
        made = LlamaForCausalLM(config).model.rotary_emb.inv_freq
    real = LlamaForCausalLM(config).model.rotary_emb.inv_freq
    assert (made.shape, made.dtype) == (real.shape, real.dtype), kind
assert absent()
"""


@pytest.mark.parametrize("script", [ASKED, FAKED, COMPILED, ROTARY], ids=["asked", "faked", "compiled", "rotary"])
def test_they_are_there_for_whoever_asks(script: str):
    done = subprocess.run([sys.executable, "-c", BEGIN + script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


RELATIVES = ("_prims", "_prims_common.wrappers", "_refs.nn", "_decomp", "utils._content_store", "_dynamo", "_inductor")


@pytest.mark.parametrize("name", [f"torch.{relative}" for relative in RELATIVES])
def test_their_relatives_can_be_imported_in_any_order(name: str):
    done = subprocess.run([sys.executable, "-c", BEGIN + IMPORTED, name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_condition_chooses_between_what_it_is_known_to():
    """Shapes and types as torch's own answer has them."""
    import torch

    from hpcmaf.imports.metas import _where

    shapes = [(), (1,), (3,), (2, 3), (4, 1, 3)]
    types = [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool]
    for condition in shapes:
        for one, other in zip(shapes, reversed(shapes), strict=True):
            for left in types:
                for right in types:
                    parts = (
                        torch.ones(condition, dtype=torch.bool, device="meta"),
                        torch.empty(one, dtype=left, device="meta"),
                        torch.empty(other, dtype=right, device="meta"),
                    )
                    own, theirs = _where(*parts), torch.where(*parts)
                    assert (own.shape, own.dtype) == (theirs.shape, theirs.dtype)


def test_torch_that_is_there_stays_as_it_is():
    script = (
        "import sys, torch\nfrom hpcmaf.imports.metas import NAME, Metas, metas, metas_later\n"
        "metas_later()\nassert not isinstance(sys.modules[NAME], Metas) and not metas()\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
