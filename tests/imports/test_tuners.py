"""PEFT's LoRA is the same without PEFT's other adapters, and those are there for who asks for them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import tiny_model

pytestmark = pytest.mark.slow

TRAINED = """
import json
import sys
import torch
from transformers import AutoModelForCausalLM
if sys.argv[1] == "alone":
    from hpcmaf.imports.tuners import import_peft
    import_peft()
import peft
modules = len([name for name in sys.modules if name.startswith("peft.")])
torch.manual_seed(1)
model = peft.get_peft_model(
    AutoModelForCausalLM.from_pretrained(sys.argv[2]),
    peft.LoraConfig(r=4, target_modules="all-linear", task_type=peft.TaskType.CAUSAL_LM),
)
ids = torch.tensor([[1, 2, 3, 4]])
model(input_ids=ids, labels=ids).loss.backward()
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter -= parameter.grad
model.save_pretrained(sys.argv[3])
base = AutoModelForCausalLM.from_pretrained(sys.argv[2])
again = peft.PeftModel.from_pretrained(base, sys.argv[3], is_trainable=True)
merged = again.merge_and_unload()
# What another task in this process may want.
from peft.tuners.ia3 import IA3Config
import peft.tuners.vera.layer
named = peft.get_peft_config({"peft_type": "IA3", "task_type": "CAUSAL_LM"})
assert isinstance(named, IA3Config) and named.peft_type == "IA3"
print(json.dumps({"modules": modules, "logits": merged(ids).logits.flatten().tolist()}))
"""


def test_lora_alone_is_lora_and_other_kinds_are_there_when_asked_for(tmp_path):
    base = tiny_model(tmp_path / "base")
    found, adapters = {}, {}
    for way in ("all", "alone"):
        out = tmp_path / way
        done = subprocess.run(
            [sys.executable, "-c", TRAINED, way, str(base), str(out)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[way] = json.loads(done.stdout.splitlines()[-1])
        adapters[way] = hashlib.sha256((out / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert adapters["all"] == adapters["alone"] and found["all"]["logits"] == found["alone"]["logits"]
    assert found["alone"]["modules"] < found["all"]["modules"] / 3
