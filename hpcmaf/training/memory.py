"""What a job needs of a GPU's memory, and the ZeRO stage that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpcmaf.training.config import FinetuneJob

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
class Memory:
    """What a job needs of each GPU, and what follows from how much that one has.

    Attributes
    ----------
    job, config
        The job, and its model's configuration.
    size, processes
        Of the model; how many share it.
    gpu
        Bytes of the smallest GPU; ``None`` on CPU.
    fused
        Norms, rotary positions and gates are single kernels, and adapters part of their layers' products.
    gated
        Gated units keep their halves and not the product.
    logits
        Share of the tokens that get them.
    """

    job: FinetuneJob
    config: Any
    size: Size
    processes: int
    gpu: int | None
    fused: bool = False
    gated: bool = False
    logits: float = 0.5

    @property
    def layers(self) -> int:
        """Of the model."""
        return self.config.get_text_config().num_hidden_layers

    def activations(self, micro: int, checkpointed: int) -> int:
        """Bytes that a forward pass of ``micro`` samples keeps at most, if so many layers keep only their input."""
        text = self.config.get_text_config()
        hidden = text.hidden_size
        inner = getattr(text, "intermediate_size", None) or 4 * hidden
        # A pair of answers is two texts.
        tokens = micro * self.job.max_length * (2 if self.job.objective == "dpo" else 1)
        # Fused: inputs and outputs of both norms, queries and their result, keys
        # and values; of the gated unit both halves, and their product.
        heads = getattr(text, "num_attention_heads", None) or 1
        shared = (getattr(text, "num_key_value_heads", None) or heads) / heads
        wide = (3 - self.gated) * inner
        layer = int(2 * ((6 + 2 * shared) * hidden + wide)) if self.fused else 2 * (16 * hidden + wide + inner)
        kept = (self.layers - checkpointed) * layer + checkpointed * 2 * hidden + (layer if checkpointed else 0)
        # Logits in both types, and their gradient.
        return tokens * (kept + int(text.vocab_size * self.logits * 12))

    def needed(self, stage: int, passing: int) -> int:
        """Bytes on each GPU under a ZeRO stage; ``passing`` is :meth:`activations`."""
        size, offload = self.size, self.job.offload
        small = int(size.in_4_bits * _IN_4_BITS)
        weights = (size.parameters - size.in_4_bits) * size.bytes_each // (self.processes if stage == 3 else 1) + small
        if stage == 3:
            # Whole layers on their way in, and gradients on their way out.
            weights += (min(_LIVE, size.parameters) + min(_BUCKET, size.trained)) * size.bytes_each
        if offload == "params":
            weights = 0
        # ZeRO-1 adds gradients up before it shards them.
        gradients = size.trained * size.bytes_each // (self.processes if stage >= 2 else 1)
        state = 0 if offload != "none" else size.trained * _STATE // (self.processes if stage >= 1 else 1)
        return weights + gradients + state + passing

    def choose_stage(self) -> tuple[int, str]:
        """The lowest ZeRO stage that fits, as higher ones communicate more, and a line that says why."""
        if self.job.offload == "params":
            return 3, "zero_stage auto: 3, as offload: params needs it"
        if self.gpu is None:
            return 1, "zero_stage auto: 1 on CPU"
        # What may be computed twice need not make anyone communicate more.
        again = 0 if self.job.gradient_checkpointing is False else self.layers
        passing = self.activations(self.job.micro_batch_size, again)
        # A single process has no one to share with; weights in 4 bits cannot be shared out.
        for stage in (1,) if self.processes == 1 else (1, 2) if self.size.in_4_bits else (1, 2, 3):
            wanted = self.needed(stage, passing)
            if wanted <= self.gpu * _USABLE:
                break
        return stage, f"zero_stage auto: {stage}, {self._about(wanted)}"

    def choose_passes(self, stage: int) -> tuple[int, int, str]:
        """How large forward passes are, how many layers are computed again in the backward pass, and a line on why.

        Nothing is computed twice where that can be had by passes that are smaller but still fill a GPU; then as few
        layers as make it fit, and at last smaller passes yet.
        """
        most, layers = self.job.micro_batch_size, self.layers
        if self.gpu is None:
            return most, 0, "gradient_checkpointing auto: none on CPU"
        least = min(most, -(-_FILLING // self.job.max_length))
        smaller = [(micro, 0) for micro in range(most, least, -1)]
        again = [(least, count) for count in range(layers + 1)]
        tiny = [(micro, layers) for micro in range(least - 1, 0, -1)]
        for micro, count in smaller + again + tiny:
            wanted = self.needed(stage, self.activations(micro, count))
            if wanted <= self.gpu * _USABLE:
                break
        how = f"{count} of {layers} layers, micro_batch_size {micro}"
        return micro, count, f"gradient_checkpointing auto: {how}, {self._about(wanted)}"

    def _about(self, wanted: int) -> str:
        have = self.gpu or 0
        return f"about {wanted / 2**30:.1f} GiB of {have / 2**30:.1f} GiB on each GPU"


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
