"""What one finetuning job is.

Plain data with a JSON form: the stage that starts a job and the processes
that run it share nothing but this file. Imports nothing heavy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal, Self, get_args

from hpcmaf.engines.chat import DATE
from hpcmaf.errors import ConfigError
from hpcmaf.files.publish import write_json
from hpcmaf.selection.sources import LossOn

Tuning = Literal["lora", "full"]
Schedule = Literal["linear", "cosine", "constant"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda"]
Offload = Literal["none", "optimizer", "params"]
Quantize = Literal["none", "4bit", "fp8"]
Objective = Literal["sft", "dpo"]


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Shape of the adapters; ``targets`` are module names, or all linear layers but the output head."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        if not isinstance(self.targets, str):
            object.__setattr__(self, "targets", tuple(self.targets))
        _require(self.rank >= 1, "lora.rank", self.rank, "at least 1")
        _require(self.alpha > 0, "lora.alpha", self.alpha, "above 0")
        _require(0 <= self.dropout < 1, "lora.dropout", self.dropout, "in [0, 1)")
        _require(bool(self.targets), "lora.targets", self.targets, '"all-linear" or module names')


@dataclass(frozen=True, slots=True)
class FinetuneJob:
    """Finetuning of one model on one dataset.

    Attributes
    ----------
    base
        Folder or hub id of the base model; its tokenizer and chat template
        are used whatever ``start`` is.
    date
        The day that the template is told it is, as in the debates.
    dataset
        JSONL with ``messages`` per line, as selection writes it; with
        ``prompt``, ``chosen`` and ``rejected`` for ``"dpo"``.
    output
        Folder to publish.
    start
        Previous adapter (LoRA) or checkpoint (full); ``None`` is the base.
    objective
        To say what the dataset says (``"sft"``), or to prefer one answer of
        each of its pairs to the other (``"dpo"``).
    dpo_beta
        How much a preference may cost in distance from the start.
    quantize
        Whether the frozen base lies in memory in 4 bits (``"4bit"``, QLoRA),
        or is multiplied in fp8 (:mod:`hpcmaf.training.fp8`), in training alone.
    batch_size
        Sequences per optimiser step over all processes; of ``"dpo"``, pairs.
    even_batches
        Whether what remains of an epoch is shared out among its steps rather
        than being a smaller last one.
    micro_batch_size
        Sequences per forward pass and process, at most; packed, so many times
        ``max_length`` tokens.
    packing
        Whether short samples share rows, without attention across them, where
        the model is found to give the same loss. Steps are of the same samples.
    max_length
        Longest sample in tokens; longer ones (or longer than the model's
        context) are dropped whole.
    zero_stage
        DeepSpeed's; 0 runs as 1 in bfloat16, where DeepSpeed's 0 keeps no
        float32 weights. ``"auto"`` is the lowest that fits the GPUs' memory.
    offload
        What lies in the machine's memory rather than the GPU's: the
        optimiser's state, or under ZeRO-3 that and the weights.
    gradient_checkpointing
        Whether layers keep only their inputs and are computed again in the
        backward pass; ``"auto"``: as few of them as the GPUs' memory asks
        for, in forward passes of no more than ``micro_batch_size``.
    max_grad_norm, loss_spike
        Clipping of the global gradient norm; a step with so many times the
        usual loss stops the job. 0 is none.
    wandb
        Project on Weights & Biases that logs every step.
    nodes, processes, threads
        Machines, processes on each of them (one GPU each), CPU threads of
        each process.
    dtype
        Of the weights in computation; ``"auto"`` is the checkpoint's own on a
        GPU and float32 on CPU. float16, which needs loss scaling, becomes
        bfloat16 (float32 on CPU).
    checkpoints
        Folder that holds what a killed job needs to go on, on a file system
        that all nodes share; ``None``: it begins again.
    checkpoint_seconds, checkpoint_steps
        A checkpoint is written after the first step that ends so long after
        the one before it, or after every so many steps.
    seed, iteration, agent
        Decide every draw together, so that two agents with the same data
        still differ in order and initial adapter.
    """

    base: str
    dataset: str
    output: str
    start: str | None = None
    revision: str | None = None
    dtype: Dtype = "auto"
    trust_remote_code: bool = False
    date: str = DATE
    tuning: Tuning = "lora"
    lora: LoraSettings = field(default_factory=LoraSettings)
    objective: Objective = "sft"
    dpo_beta: float = 0.1
    quantize: Quantize = "none"
    epochs: int = 2
    learning_rate: float = 1e-5
    batch_size: int = 16
    even_batches: bool = False
    micro_batch_size: int = 1
    packing: bool = True
    max_length: int = 2048
    zero_stage: int | Literal["auto"] = 2
    offload: Offload = "none"
    loss_on: LossOn = "last_turn"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: Schedule = "linear"
    gradient_checkpointing: bool | Literal["auto"] = False
    loss_spike: float = 3.0
    wandb: str | None = None
    seed: int = 0
    nodes: int = 1
    processes: int = 1
    threads: int = 1
    checkpoints: str | None = None
    checkpoint_seconds: float = 600.0
    checkpoint_steps: int | None = None
    device: Device = "auto"
    iteration: int = 1
    agent: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.lora, Mapping):
            object.__setattr__(self, "lora", LoraSettings(**self.lora))
        for name, choices in (
            ("tuning", Tuning),
            ("loss_on", LossOn),
            ("schedule", Schedule),
            ("dtype", Dtype),
            ("device", Device),
            ("offload", Offload),
            ("objective", Objective),
            ("quantize", Quantize),
        ):
            value = getattr(self, name)
            _require(value in get_args(choices), name, value, "one of " + ", ".join(get_args(choices)))
        for name in ("epochs", "batch_size", "micro_batch_size", "max_length", "nodes", "processes", "threads"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        stage, everywhere = self.zero_stage, self.nodes * self.processes
        whole_base = self.tuning == "lora" and stage != 3 and self.offload != "params"
        offloadable = ("auto", 3, *((1, 2) if self.offload == "optimizer" else ()))
        for name, holds, what in (
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("dpo_beta", self.dpo_beta > 0, "above 0"),
            ("gradient_checkpointing", self.gradient_checkpointing in (True, False, "auto"), "true, false or auto"),
            ("zero_stage", stage in (0, 1, 2, 3, "auto"), "0, 1, 2, 3 or auto"),
            (
                "offload",
                self.offload == "none" or stage in offloadable,
                f"none with zero_stage {stage} (optimizer needs 1 or more, params needs 3)",
            ),
            (
                "quantize",
                self.quantize == "none" or whole_base,
                "none with full tuning, zero_stage 3 or offload params: only a whole frozen base is quantized",
            ),
            ("warmup_ratio", 0 <= self.warmup_ratio <= 1, "in 0..1"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("max_grad_norm", self.max_grad_norm >= 0, "0 (no clipping) or more"),
            ("loss_spike", self.loss_spike == 0 or self.loss_spike > 1, "above 1, or 0 to allow any"),
            ("checkpoint_seconds", self.checkpoint_seconds > 0, "above 0"),
            ("checkpoint_steps", self.checkpoint_steps is None or self.checkpoint_steps >= 1, "at least 1"),
            (
                "batch_size",
                self.batch_size >= everywhere,
                f"at least the number of processes ({everywhere}), or some would never have a sequence",
            ),
        ):
            _require(holds, name, getattr(self, name), what)

    @property
    def alone(self) -> bool:
        """Whether one process does it, on one node."""
        return self.nodes * self.processes == 1

    def write(self, path: Path) -> None:
        """Write the job as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a job written by :meth:`write`; ``ConfigError`` where the file is none, or has an impossible value."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            unknown = sorted(set(content) - {item.name for item in fields(cls)})
            if unknown:
                raise ConfigError(f"{path}: unknown key {unknown[0]!r}; write the job with this version of hpcmaf")
            return cls(**content)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: not a finetuning job ({error}); rerun the stage that writes it") from error


def _require(holds: bool, name: str, value: object, what: str) -> None:
    if not holds:
        raise ConfigError(f"finetuning: {name} is {value!r}; it must be {what}")
