"""Tasks do without torch's compiler and distributed tensors, and whoever wants them has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import tiny_adapter, tiny_model

pytestmark = pytest.mark.slow

TRAINS = """
import sys
from hpcmaf.imports.metas import metas_later
metas_later()
import torch
from hpcmaf.training.worker import preload
from hpcmaf.training.spec import FinetuneJob
from hpcmaf.training.model import load_config, load_model
job = FinetuneJob(base=sys.argv[1], dataset="d", output="o", device="cpu")
preload(job)
model = load_model(job, load_config(job), torch.float32)
hidden = model.model.embed_tokens.weight[:2].detach().requires_grad_()
torch.autograd.grad(2 * hidden, hidden, torch.ones_like(hidden))
layer = torch.nn.Linear(2, 2)
optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
optimizer.zero_grad()
"""
ANSWERS = """
import asyncio
import sys
from hpcmaf.engines import Request, Sampling, ServedModels
from hpcmaf.imports.light import lightly
with lightly():
    from hpcmaf.engines.transformers_engine import TransformersEngine
engine = TransformersEngine(ServedModels(sys.argv[1], "lora", {"a": sys.argv[2]}), device="cpu")
asked = Request("k", ({"role": "user", "content": "1+2"},), "a", 1, Sampling(1.0, 0.9, 4))
assert asyncio.run(engine.complete(asked)).token_ids
import torch
layer = torch.nn.Linear(2, 2)
"""
AFTERWARDS = """
heavy = ("torch._dynamo.utils", "torch.distributed.tensor._ops", "torch.distributed.fsdp._flat_param", "sympy.core")
heavy += ("torch._prims",)
assert not [name for name in heavy if name in sys.modules]
assert not isinstance(layer.weight, torch.distributed.tensor.DTensor)
twice = torch.compile(lambda x: 2 * x, backend="eager")
assert twice(torch.ones(2)).tolist() == [2, 2] and "torch._dynamo.utils" in sys.modules
# A size that is unknown when this is traced.
longer = torch.compile(lambda x: x.reshape(-1, 2) + x.shape[0], backend="eager", dynamic=True)
assert [longer(torch.zeros(n))[0, 0].item() for n in (4, 6)] == [4, 6]
import torch.distributed.fsdp, torch.distributed.tensor._utils
assert issubclass(torch.distributed.tensor.DTensor, torch.Tensor)
"""


@pytest.mark.parametrize("task", [TRAINS, ANSWERS], ids=["trains", "answers"])
def test_a_task_that_compiles_nothing_has_no_compiler(tmp_path: Path, task: str):
    base = tiny_model(tmp_path / "base")
    adapter = tiny_adapter(base, tmp_path / "adapter", seed=1)
    command = [sys.executable, "-c", task + AFTERWARDS, str(base), str(adapter)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
