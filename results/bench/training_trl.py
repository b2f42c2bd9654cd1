"""TRL's part of ``training.py``: ``training_trl ARM FOLDER plain|checkpointed``, one process per GPU."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from results.bench.training_workload import BATCH

# Tokens of a packed row, and rows of a packed and of a padded micro-batch, without checkpointing.
ROW, PACKED, PADDED = 2048, 4, 4


def settings_of(folder: Path, arm: str, mean: float, *, checkpointed: bool) -> dict[str, Any]:
    """SFTConfig's arguments: as large micro-batches as fit 80 GB, and what makes it fast."""
    import torch

    cuda, packed = torch.cuda.is_available(), arm != "trl-padded"
    micro = (PACKED if packed else PADDED) * (2 if checkpointed and not packed else 1)
    if arm == "trl-packed":
        # SDPA computes all of a row's square, so longer rows cost more than they gain.
        micro = 2
    rows_per_step = BATCH * mean / ROW if packed else BATCH
    zero = {
        "zero_optimization": {"stage": 2},
        "bf16": {"enabled": True},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": 1.0,
        "zero_allow_untested_optimizer": True,
    }
    settings: dict[str, Any] = {
        "output_dir": str(folder / arm),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": max(1, round(rows_per_step / micro)),
        "num_train_epochs": 1,
        "learning_rate": 1e-5,
        "bf16": True,
        "deepspeed": zero,
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": checkpointed,
        "packing": packed,
        "max_length": ROW,
        "completion_only_loss": True,
        "use_liger_kernel": cuda,
        "use_cpu": not cuda,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1000,
    }
    if checkpointed:
        settings["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    if arm == "trl-flex":
        # Rows of one length compile once.
        settings["pad_to_multiple_of"] = micro * ROW
    if not packed:
        settings["train_sampling_strategy"] = "group_by_length"
    return settings


def trl(folder: Path, arm: str, *, checkpointed: bool) -> dict[str, Any]:
    """SFTTrainer on the same texts."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from hpcmaf.models.chat import ChatFormat
    from hpcmaf.training.data import load_tokens

    cuda = torch.cuda.is_available()
    began = time.time()
    chat = ChatFormat.from_pretrained(str(folder / "model"))
    samples = load_tokens(folder / "data.jsonl", chat, max_length=ROW, loss_on="last_turn").samples
    # Tokenized already, so that nothing but training is compared.
    rows = Dataset.from_list(
        [{"input_ids": s.input_ids, "completion_mask": [int(target) for target in s.target]} for s in samples]
    )
    mean = sum(len(s.input_ids) for s in samples) / len(samples)
    # Seconds, and tokens of texts in this process so far.
    marks: list[tuple[float, int]] = []

    class Counting(SFTTrainer):
        seen: Any = 0

        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
            # No text has the padding's token.
            self.seen = self.seen + (inputs["input_ids"] != 0).sum()
            return super().training_step(model, inputs, *rest, **more)

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if cuda:
                torch.cuda.synchronize()
            marks.append((time.time(), int(trainer.seen)))

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.pad_token = tokenizer.unk_token
    model = AutoModelForCausalLM.from_pretrained(
        folder / "model",
        dtype=torch.bfloat16,
        attn_implementation="flex_attention" if arm == "trl-flex" else "sdpa",
    )
    settings = settings_of(folder, arm, mean, checkpointed=checkpointed)
    trainer = Counting(
        model=model,
        args=SFTConfig(**settings),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Clock()],
    )
    ready = time.time()
    trainer.train()
    trained = time.time()
    trainer.save_model()
    processes = int(os.environ["WORLD_SIZE"])
    # Two steps warm up.
    (begin, before), (end, total) = marks[min(1, len(marks) - 1)], marks[-1]
    return {
        "tokens_per_s": processes * (total - before) / max(end - begin, 1e-9),
        "tokens": processes * total,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "wall_s": time.time() - began,
        "startup_s": ready - began,
        "first_steps_s": begin - ready,
        "training_s": trained - ready,
        "steps": len(marks),
        "micro_batch": settings["per_device_train_batch_size"],
        "checkpointed": checkpointed,
    }


if __name__ == "__main__":
    name, folder, mode = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    result = trl(folder, name, checkpointed=mode == "checkpointed")
    if os.environ["RANK"] == "0":
        (folder / f"{name}.json").write_text(json.dumps(result))
