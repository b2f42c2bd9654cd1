"""Jobs run once for all tests that look at what came out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpcmaf.config.recipe import Lora
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.launch import MODEL
from tests.environments import made_once
from tests.tiny_models import MAKES, make_model

SAMPLES = 21


def chats(count: int = SAMPLES) -> list[dict[str, Any]]:
    """Samples whose lengths differ, two turns each, told apart by their text."""
    lines = []
    for i in range(count):
        first = [{"role": "user", "content": f"{i}+{i}?"}, {"role": "assistant", "content": f"maybe {i * 3}"}]
        last = [
            {"role": "user", "content": "sure?"},
            {"role": "assistant", "content": "so " + "x" * (i % 5) + str(2 * i)},
        ]
        label, advantage = ("positive", 0.5) if i % 3 else ("negative", -1.0)
        lines.append({"messages": first + last, "problem_id": f"p{i}", "label": label, "advantage": advantage})
    return lines


def preferences(first: int, count: int = SAMPLES) -> list[dict[str, Any]]:
    """Pairs of one agent's answers, the right one and one that is off by one."""
    lines = []
    for i in range(first, first + count):
        prompt = [{"role": "user", "content": f"{i}+{i}?"}]
        right, wrong = f"so it is {2 * i}", f"well, {2 * i + 1}"[: 6 + i % 4]
        texts = (("chosen", right), ("rejected", wrong))
        answers = {side: [{"role": "assistant", "content": text}] for side, text in texts}
        lines.append({"prompt": prompt, **answers, "problem_id": f"p{i}", "label": "negative"})
    return lines


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    """A dataset file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@dataclass
class Outcome:
    """A finished (or failed) job, and the folder it had."""

    place: Path
    code: int

    def __post_init__(self) -> None:
        self.work, self.log = self.place / "work", self.place / "finetune.log"
        self.output = self.work / MODEL
        self.job = FinetuneJob.read(self.work / "job.json")

    @property
    def report(self) -> dict[str, Any]:
        """What the worker reported."""
        assert self.code == 0, self.log.read_text()[-3000:]
        return json.loads((self.work / "report.json").read_text())

    @property
    def steps(self) -> list[dict[str, Any]]:
        """What it said of its steps."""
        return steps_in(self.work.parent / "progress.jsonl")

    @property
    def failure(self) -> str:
        """The failed worker's one line."""
        assert self.code != 0
        return json.loads((self.work / "failure.json").read_text())["message"]

    def weights(self) -> dict[str, Any]:
        """Saved tensors."""
        from safetensors.torch import load_file

        assert self.code == 0, self.log.read_text()[-3000:]
        return load_file(next(self.output.glob("*.safetensors")))


def is_an_adapter_like(outcome: Outcome, plain: Outcome) -> None:
    """See that PEFT opens a job's adapter as it opens a plain one's, and that it changes the base."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert outcome.weights().keys() == plain.weights().keys()
    base, ids = AutoModelForCausalLM.from_pretrained(outcome.job.base), torch.tensor([[1, 10, 11]])
    before = base(ids).logits.detach()
    assert not torch.allclose(PeftModel.from_pretrained(base, outcome.output)(ids).logits, before)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this session have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def bases(shared: Path) -> dict[str, Path]:
    """One tiny base model per make; Mistral's with tied embeddings."""

    def make(folder: Path) -> None:
        for name in MAKES:
            make_model(folder / name, name, tied=name == "mistral")

    folder = made_once(shared / "bases", make)
    return {name: folder / name for name in MAKES}


def steps_in(progress: Path) -> list[dict[str, Any]]:
    """The lines of a job's progress."""
    return [json.loads(line) for line in progress.read_text().split("\n")[:-1]] if progress.exists() else []


def wait_until(holds: Callable[[], object], seconds: float = 300.0) -> None:
    """Wait for what has to come."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def changed(base: Path, folder: Path, factors: dict[str, float]) -> Path:
    """A checkpoint with some of its matrices multiplied."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    for name, factor in factors.items():
        weights[name] = (weights[name].double() * factor).clamp(-3e38, 3e38).float()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


# As a diverged run leaves a model: finite weights, infinite logits.
OVERFLOWING = {"lm_head.weight": 1e60}
# Finite weights and losses, and gradients beyond float32.
STEEP = {
    f"model.layers.1.{name}.weight": factor
    for name, factor in {
        "post_attention_layernorm": 1e4,
        "mlp.gate_proj": 1e-4,
        "mlp.up_proj": 1e-40,
        "mlp.down_proj": 1e40,
    }.items()
}


LORA = Lora(rank=4, alpha=8)
COMMON = {
    "device": "cpu",
    "batch_size": 8,
    "micro_batch_size": 3,
    "learning_rate": 1e-2,
    "zero_stage": 2,
    "gradient_checkpointing": False,
    "seed": 5,
}


def cases(bases: dict[str, Path], folder: Path) -> dict[str, dict[str, Any]]:
    """Every job by name; each is COMMON with the differences given here."""
    data = str(write_lines(folder / "data.jsonl", chats()))
    empty = str(write_lines(folder / "empty.jsonl", []))
    llama = {"base": str(bases["llama"]), "dataset": data}
    overflowing = str(changed(bases["llama"], folder / "overflowing", OVERFLOWING))
    steep = str(changed(bases["llama"], folder / "steep", STEEP))
    makes = list(MAKES)
    table: dict[str, dict[str, Any]] = {}
    for stage in range(4):
        for tuning in ("lora", "full"):
            make = makes[(stage + (tuning == "full")) % 3]
            own = {"base": str(bases[make]), "dataset": data, "tuning": tuning, "zero_stage": stage}
            table[f"{tuning}-{stage}"] = own
    pairs = llama | {"objective": "dpo", "dataset": str(write_lines(folder / "pairs.jsonl", preferences(0)))}
    hot = {"lora": Lora(rank=4, alpha=8, dropout=0.2)}
    table |= {
        "one-big": llama | {"tuning": "full", "zero_stage": 1, "micro_batch_size": 8},
        "one-small": llama | {"tuning": "full", "zero_stage": 1, "micro_batch_size": 1, "max_length": 60},
        "unpacked": llama | {"tuning": "full", "zero_stage": 1, "packing": False},
        "two-processes": llama
        | {"tuning": "full", "zero_stage": 2, "processes": 2, "micro_batch_size": 1, "max_length": 60},
        "two-processes-lora": llama | {"zero_stage": 3, "processes": 2, "max_length": 60},
        "offload-2": llama | {"tuning": "full", "zero_stage": 2, "offload": "optimizer"},
        "offload-3": llama | {"tuning": "full", "zero_stage": "auto", "offload": "params"},
        "dropout": llama | hot,
        "other-agent": llama | hot | {"agent": "critic-1", "zero_stage": "auto"},
        "bfloat16": llama | {"dtype": "bfloat16", "zero_stage": 0},
        "checkpointing": llama | {"gradient_checkpointing": True},
        "next": llama | {"start": str(folder / "lora-0/work" / MODEL), "base": str(bases[makes[0]])},
        "empty-lora": llama | {"dataset": empty},
        "empty-full": llama | {"dataset": empty, "tuning": "full"},
        "diverged": llama | {"start": overflowing, "tuning": "full"},
        "steep-lora": llama | {"base": steep},
        "steep-full-0": llama | {"base": steep, "tuning": "full", "zero_stage": 0, "max_grad_norm": 0.0},
        "steep-full-3": llama | {"base": steep, "tuning": "full", "zero_stage": 3, "processes": 2},
        "steep-bfloat16": llama | {"base": steep, "dtype": "bfloat16", "zero_stage": 1},
        "wrong-rank": llama | {"start": str(folder / "lora-0/work" / MODEL), "lora": Lora(rank=8)},
        "wrong-targets": llama | {"lora": Lora(targets=["nowhere"])},
        "dpo-lora": pairs,
        "dpo-next": pairs | {"start": str(folder / "dpo-lora/work" / MODEL)},
        "dpo-lora-3": pairs | {"zero_stage": 3, "processes": 2, "micro_batch_size": 2},
        "dpo-full": pairs
        | {"tuning": "full", "zero_stage": 2, "processes": 2, "learning_rate": 1e-3}
        | {"gradient_checkpointing": True},
        "kto": llama | {"objective": "kto"},
        "grpo": llama | {"objective": "grpo"},
        "kto-3": llama | {"objective": "kto", "zero_stage": 3, "processes": 2, "micro_batch_size": 2},
        "grpo-next": llama | {"objective": "grpo", "start": str(folder / "grpo/work" / MODEL), "grpo_beta": 2.0},
        "grpo-next-3": llama
        | {"objective": "grpo", "start": str(folder / "grpo/work" / MODEL), "grpo_beta": 2.0}
        | {"zero_stage": 3, "processes": 2, "micro_batch_size": 2},
        "fp8": llama | {"quantize": "fp8", "processes": 2},
        "fp8-bfloat16": llama | {"quantize": "fp8", "dtype": "bfloat16"},
        "fp8-dpo": pairs | {"quantize": "fp8", "learning_rate": 3e-3},
        "all-turns": llama | {"loss_on": "all_turns", "epochs": 1},
    }
    return table


@pytest.fixture(scope="session")
def outcomes(bases: dict[str, Path], shared: Path) -> dict[str, Outcome]:
    """Run all cases; about two seconds each, since they share their imports."""

    def make(folder: Path) -> None:
        folder.mkdir()
        table = cases(bases, folder).items()
        common = {"output": "unset", "lora": LORA} | COMMON
        run_batch(folder, {name: FinetuneJob(**(common | differences)) for name, differences in table})

    return outcomes_in(made_once(shared / "jobs with spaces", make))


def outcomes_in(folder: Path) -> dict[str, Outcome]:
    """What became of the jobs of a batch."""
    codes = json.loads((folder / "codes.json").read_text())
    return {name: Outcome(folder / name, code) for name, code in codes.items()}


def run_batch(
    folder: Path, jobs: dict[str, FinetuneJob], kill_after: dict[str, int] | None = None, packages: Path | None = None
) -> dict[str, Outcome]:
    """Run jobs one after another, each in a folder of its name; kill some once a checkpoint is so many steps far.

    ``packages`` is a folder of more packages than are installed.
    """
    for name, job in jobs.items():
        place = folder / name
        (place / "work").mkdir(parents=True)
        job.write(place / "work" / "job.json")
        if name in (kill_after or {}):
            (place / "kill").write_text(str((kill_after or {})[name]))
    (folder / "order.json").write_text(json.dumps(list(jobs)))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false"}
    if packages is not None:
        before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join([str(packages), *before])
    done = subprocess.run(  # noqa: PLW1510 (its code is asserted below)
        [sys.executable, "-m", "tests.training.batch", str(folder)],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return outcomes_in(folder)
