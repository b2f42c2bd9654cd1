"""What a job needs of a GPU's memory, and the ZeRO stage that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpcmaf.training.config import FinetuneJob

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# What fragments, buffers and the kernels' own work leave of it.
_USABLE = 0.92
# Tokens of a forward pass that keep a large GPU busy; more gain next to nothing.
_FILLING = 8192
# AdamW in mixed precision: a float32 copy and two moments.
_STATE = 12
# DeepSpeed's own limits, in parameters.
_LIVE, _BUCKET = 1_000_000_000, 500_000_000
# Bytes of a parameter in 4 bits, its share of doubly quantized constants included.
_IN_4_BITS = 0.52


@dataclass(frozen=True, slots=True)
class Size:
    """Parameters of a model: all, the trained ones, bytes of each in computation, and how many lie in 4 bits."""

    parameters: int
    trained: int
    bytes_each: int
    in_4_bits: int = 0


@dataclass(frozen=True, slots=True)
class Keeps:
    """What a model's operations keep of a forward pass.

    ``fused``: norms, rotary positions and gates are single kernels, and
    adapters part of their layers' products. ``gated``: gated units keep their
    halves and not the product. ``logits``: share of the tokens that get them.
    """

    fused: bool = False
    gated: bool = False
    logits: float = 0.5


def activations(
    job: FinetuneJob, config: PretrainedConfig, *, checkpointed: int | None = None, keeps: Keeps = Keeps()
) -> int:
    """Bytes that one forward pass keeps for its backward pass, at most.

    ``checkpointed`` layers keep only their input; ``None``: all of them or
    none, as the job says.
    """
    text = config.get_text_config()
    hidden, layers = text.hidden_size, text.num_hidden_layers
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    # A pair of answers is two texts.
    tokens = job.micro_batch_size * job.max_length * (2 if job.objective == "dpo" else 1)
    # Fused: inputs and outputs of both norms, queries and their result, keys
    # and values; of the gated unit both halves, and their product.
    heads = getattr(text, "num_attention_heads", None) or 1
    shared = (getattr(text, "num_key_value_heads", None) or heads) / heads
    wide = (3 - keeps.gated) * inner
    layer = int(2 * ((6 + 2 * shared) * hidden + wide)) if keeps.fused else 2 * (16 * hidden + wide + inner)
    if checkpointed is None:
        checkpointed = layers if job.gradient_checkpointing is True else 0
    kept = (layers - checkpointed) * layer + checkpointed * 2 * hidden + (layer if checkpointed else 0)
    # Logits in both types, and their gradient.
    return tokens * (kept + int(text.vocab_size * keeps.logits * 12))


def needed(size: Size, stage: int, processes: int, offload: str, passing: int) -> int:
    """Bytes on each GPU; ``passing`` is :func:`activations`."""
    small = int(size.in_4_bits * _IN_4_BITS)
    weights = (size.parameters - size.in_4_bits) * size.bytes_each // (processes if stage == 3 else 1) + small
    if stage == 3:
        # Whole layers on their way in, and gradients on their way out.
        weights += (min(_LIVE, size.parameters) + min(_BUCKET, size.trained)) * size.bytes_each
    if offload == "params":
        weights = 0
    # ZeRO-1 adds gradients up before it shards them.
    gradients = size.trained * size.bytes_each // (processes if stage >= 2 else 1)
    state = 0 if offload != "none" else size.trained * _STATE // (processes if stage >= 1 else 1)
    return weights + gradients + state + passing


def choose_passes(
    size: Size,
    stage: int,
    processes: int,
    job: FinetuneJob,
    config: PretrainedConfig,
    memory: Sequence[int],
    keeps: Keeps,
) -> tuple[int, int, str]:
    """How large forward passes are, how many layers are computed again in the backward pass, and a line that says why.

    Nothing is computed twice where that can be had by passes that are
    smaller but still fill a GPU; then as few layers as make it fit, and at
    last smaller passes yet.
    """
    layers = config.get_text_config().num_hidden_layers
    if not memory:
        return job.micro_batch_size, 0, "gradient_checkpointing auto: none on CPU"
    room = int(min(memory) * _USABLE)
    least = min(job.micro_batch_size, -(-_FILLING // job.max_length))
    smaller = [(micro, 0) for micro in range(job.micro_batch_size, least, -1)]
    again = [(least, count) for count in range(layers + 1)]
    tiny = [(micro, layers) for micro in range(least - 1, 0, -1)]
    for micro, count in smaller + again + tiny:
        cut = job.model_copy(update={"micro_batch_size": micro})
        wanted = needed(size, stage, processes, job.offload, activations(cut, config, checkpointed=count, keeps=keeps))
        if wanted <= room:
            break
    why = f"gradient_checkpointing auto: {count} of {layers} layers, micro_batch_size {micro}, about "
    return micro, count, why + f"{_gib(wanted)} of {_gib(min(memory))} on each GPU"


def choose_stage(size: Size, processes: int, offload: str, passing: int, memory: Sequence[int]) -> tuple[int, str]:
    """The lowest ZeRO stage that fits, as higher ones communicate more, and a line that says why.

    ``memory`` has the bytes of each process's GPU, and is empty on CPU.
    """
    if offload == "params":
        return 3, "zero_stage auto: 3, as offload: params needs it"
    if not memory:
        return 1, "zero_stage auto: 1 on CPU"
    room = int(min(memory) * _USABLE)
    # A single process has no one to share with; weights in 4 bits cannot be shared out.
    stages = (1,) if processes == 1 else (1, 2) if size.in_4_bits else (1, 2, 3)
    for stage in stages:
        wanted = needed(size, stage, processes, offload, passing)
        if wanted <= room:
            break
    return stage, f"zero_stage auto: {stage}, about {_gib(wanted)} of {_gib(min(memory))} on each GPU"


def flop_per_token(size: Size, job: FinetuneJob) -> int:
    """Useful work: forward and backward are 2 and 4 FLOP per parameter and token, less a frozen one's gradient."""
    return 4 * size.parameters + 2 * size.trained if job.tuning == "lora" else 6 * size.parameters


def size_of(parameters: Any, bytes_each: int) -> Size:
    """Count a model's parameters; under ZeRO-3 each is but a part here, and ``ds_numel`` is the whole."""
    total = trained = in_4_bits = 0
    for parameter in parameters:
        # Rounded to fp8 it lies elsewhere, twice, which takes as much as bfloat16 does.
        count = getattr(parameter, "ds_numel", None) or getattr(parameter, "rounded", None) or parameter.numel()
        if type(parameter).__name__ == "Params4bit":
            # Two of them in each byte.
            count *= 2 * parameter.element_size()
            in_4_bits += count
        total += count
        trained += count if parameter.requires_grad else 0
    return Size(total, trained, bytes_each, in_4_bits)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
