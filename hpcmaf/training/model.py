"""The model that a job trains: the base, with an adapter or as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpcmaf.errors import ConfigError, TrainingError, brief
from hpcmaf.training.config import FinetuneJob

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from hpcmaf.training.process import Process


def weights_path(job: FinetuneJob) -> str:
    """Folder or hub id of the checkpoint that is loaded whole."""
    return job.start if job.tuning == "full" and job.start else job.base


def load_config(job: FinetuneJob) -> PretrainedConfig:
    """Configuration of the checkpoint, which also imports its model class.

    Raises
    ------
    TrainingError
        There is no such model here.
    """
    from transformers import AutoConfig

    with loading(job) as source:
        return AutoConfig.from_pretrained(**source)


def compute_dtype(job: FinetuneJob, config: PretrainedConfig, cuda: bool) -> torch.dtype:
    """Type of the weights in computation: bfloat16 or float32."""
    import torch

    name = job.dtype
    if name == "auto":
        name = str(getattr(config, "dtype", None) or torch.float32).removeprefix("torch.") if cuda else "float32"
    if name == "float16":
        name = "bfloat16" if cuda else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def inner_model(model: Any) -> PreTrainedModel:
    """What transformers made, out of DeepSpeed's and PEFT's wrappers."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def loading_device(job: FinetuneJob, process: Process) -> str:
    """Where to load weights: straight onto a GPU that has room for them twice, else into the machine's memory."""
    import torch

    if not process.cuda:
        return "cpu"
    if job.quantize == "4bit":
        # It is quantized there, layer by layer.
        return str(process.device)
    # Of a hub id it is not known.
    size = sum(path.stat().st_size for path in Path(weights_path(job)).glob("*.safetensors"))
    whole = job.zero_stage != 3 and job.offload == "none"
    return str(process.device) if whole and 0 < 2 * size < torch.cuda.mem_get_info()[0] else "cpu"


def load_model(
    job: FinetuneJob, config: PretrainedConfig, dtype: torch.dtype | Literal["auto"], device: str = "cpu"
) -> PreTrainedModel:
    """Load the checkpoint that is to be trained, or that an adapter is to be put on.

    Raises
    ------
    TrainingError
        The checkpoint is damaged.
    """
    from transformers import AutoModelForCausalLM

    with loading(job) as source, _partitioned(job, dtype):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            **source,
            config=config,
            dtype=dtype,
            # Through the machine's memory the weights would travel twice.
            device_map=None if device == "cpu" else {"": device},
            quantization_config=_in_4_bits(dtype) if job.quantize == "4bit" and dtype != "auto" else None,
        )
    for module in model.modules() if job.quantize == "4bit" else ():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Some CPUs' kernels repack weights in place for evaluation, and training cannot read them then.
            module.support_avx512bf16_for_cpu = False
    return model


@contextmanager
def loading(job: FinetuneJob) -> Iterator[dict[str, Any]]:
    """What transformers' loaders have to know; what they raise becomes a ``TrainingError``."""
    path = weights_path(job)
    # A revision names a state of the base; earlier checkpoints are plain folders.
    revision = job.revision if path == job.base else None
    try:
        yield {
            "pretrained_model_name_or_path": path,
            "revision": revision,
            "trust_remote_code": job.trust_remote_code,
        }
    except Exception as error:  # a damaged checkpoint makes the loaders raise almost anything
        raise TrainingError(f"model {path}: cannot be loaded ({brief(error)}); check the files there") from error


@contextmanager
def _partitioned(job: FinetuneJob, dtype: object) -> Iterator[None]:
    """Under ZeRO-3, let each process load but its part of a model.

    The processes have to be connected. Does nothing for other stages, or
    where nothing is to be trained (``dtype="auto"``).
    """
    if dtype == "auto" or (job.zero_stage != 3 and job.offload != "params"):
        yield
        return
    import torch
    from transformers.integrations import HfDeepSpeedConfig

    zero = {"stage": 3} | ({"offload_param": {"device": "cpu"}} if job.offload == "params" else {})
    # transformers looks for it as long as it lives.
    config = HfDeepSpeedConfig(
        {
            "train_micro_batch_size_per_gpu": job.micro_batch_size,
            "bf16": {"enabled": dtype == torch.bfloat16},
            "zero_optimization": zero,
        }
    )
    yield
    del config


def checkpoint_layers(model: torch.nn.Module, count: int | None) -> None:
    """Keep only the inputs of a model's first ``count`` layers for the backward pass; ``None``: of all."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    inner = inner_model(model)
    if count == 0 or (count and not inner.supports_gradient_checkpointing):
        # As the job before may have left it.
        if inner.is_gradient_checkpointing:
            inner.gradient_checkpointing_disable()
            inner.disable_input_require_grads()
        return
    inner.gradient_checkpointing_enable({"use_reentrant": False})
    # Frozen embeddings would cut the graph at the first checkpoint.
    inner.enable_input_require_grads()
    layers = [module for module in inner.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers[count:] if count is not None else ():
        layer.gradient_checkpointing = False


def _in_4_bits(dtype: torch.dtype) -> object:
    """QLoRA's own settings: NF4, its constants quantized too, products in the adapter's type."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def trainable(model: PreTrainedModel, job: FinetuneJob) -> torch.nn.Module:
    """A loaded model as the job trains it, in training mode.

    With LoRA the base is frozen and the result a ``PeftModel``: training resumes from the adapter of ``job.start``, or
    a fresh one starts (B = 0: the base unchanged), drawn on the CPU, wherever the base lies. ``ConfigError`` where the
    adapter has another shape than the job's, or the job's targets are nowhere.
    """
    if job.tuning == "full":
        return model.train()
    from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model

    lora = job.lora
    if job.start:
        before = PeftConfig.from_pretrained(job.start)
        if (before.r, before.lora_alpha) != (lora.rank, lora.alpha):
            raise ConfigError(
                f"{job.start}: an adapter of rank {before.r}, alpha {before.lora_alpha:g}, but the recipe asks for "
                f"rank {lora.rank}, alpha {lora.alpha:g}; keep the shape, or use start_from: base"
            )
        return PeftModel.from_pretrained(model, job.start, is_trainable=True).train()
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=job.base,
        revision=job.revision,
    )
    try:
        return get_peft_model(model, settings).train()
    except ValueError as error:
        raise ConfigError(f"{job.base}: lora.targets {lora.targets!r} do not fit this model ({error})") from error
