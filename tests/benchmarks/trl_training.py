"""TRL's part of bench_training.py: ``trl_training.py ARM FOLDER``, in a process of its own (of several, by torchrun)."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from bench_training import BATCH


def trl(place: Path, arm: str) -> dict[str, Any]:
    """SFTTrainer on the same texts."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from hpcmaf.chat import ChatFormat
    from hpcmaf.training.data import load_tokens

    began = time.time()
    chat = ChatFormat.from_pretrained(str(place / "model"))
    samples = load_tokens(place / "data.jsonl", chat, max_length=2048, loss_on="last_turn").samples
    # Tokenized already, so that nothing but training is compared.
    rows = Dataset.from_list(
        [{"input_ids": s.input_ids, "completion_mask": [int(target) for target in s.target]} for s in samples]
    )
    packed = arm != "trl-padded"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    mean = sum(len(s.input_ids) for s in samples) / len(samples)
    micro = 4 if packed else 8
    rows_per_step = BATCH * mean / 2048 if packed else BATCH
    zero = {
        "zero_optimization": {"stage": 2},
        "bf16": {"enabled": True},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": 1.0,
        "zero_allow_untested_optimizer": True,
    }
    settings: dict[str, Any] = {
        "output_dir": str(place / arm),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": max(1, round(rows_per_step / micro)),
        "num_train_epochs": 1,
        "learning_rate": 1e-5,
        "bf16": True,
        "deepspeed": zero,
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": False,
        "packing": packed,
        "max_length": 2048,
        "completion_only_loss": True,
        "use_liger_kernel": torch.cuda.is_available(),
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1000,
    }
    if not packed:
        settings["train_sampling_strategy"] = "group_by_length"
    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            marks.append(time.time())

    model = AutoModelForCausalLM.from_pretrained(
        place / "model",
        dtype=torch.bfloat16,
        attn_implementation="flex_attention" if arm == "trl-flex" else "sdpa",
    )
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**settings),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(place / "model"),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Clock()],
    )
    ready = time.time()
    trainer.train()
    trained = time.time()
    trainer.save_model()
    total = sum(len(s.input_ids) for s in samples)
    return {
        # Steps are about equally long; two of them warm up.
        "tokens_per_s": total * (len(marks) - 2) / len(marks) / (marks[-1] - marks[1]),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "wall_s": time.time() - began,
        "startup_s": ready - began,
        "first_steps_s": marks[1] - ready,
        "training_s": trained - ready,
        "steps": len(marks),
        "processes": processes,
    }


if __name__ == "__main__":
    result = trl(Path(sys.argv[2]), sys.argv[1])
    if os.environ.get("RANK", "0") == "0":
        (Path(sys.argv[2]) / f"{sys.argv[1]}.json").write_text(json.dumps(result))
