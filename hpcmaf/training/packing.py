"""Texts that share a row: which models can be trained on them, and the proof before the first step.

Packed texts lie end to end in one row, positions restart with each, and attention stays inside them
(:mod:`hpcmaf.training.attention`), so that nothing is computed for padding and short texts fill a GPU as long ones do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from hpcmaf.training.attention import Unpackable, boundaries, packed_attention
from hpcmaf.training.data import TokenSample
from hpcmaf.training.fp8 import Fp8Linear
from hpcmaf.training.model import inner_model
from hpcmaf.training.process import Process

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "hpcmaf_packed"
# These read nothing of a text but its own positions; others also look at the
# longest text in a batch ("dynamic", "longrope").
_PLAIN_ROPE = {"default", "linear", "llama3", "yarn", "proportional"}
# Tokens of each text that is tried before the first step.
_TRIED = 24


class Packing:
    """The attention of one model while its texts share rows; ``on``: whether they do.

    Parameters
    ----------
    model
        As the job trains it, with adapter or without.
    longest, wanted
        Length of the longest text; whether to try at all.
    """

    def __init__(self, model: torch.nn.Module, longest: int, *, wanted: bool = True) -> None:
        self._model = inner_model(model)
        self.on, self._called = False, False
        if not wanted:
            return
        try:
            self._begin(longest)
        except Unpackable as reason:
            self._give_up(reason)

    def _begin(self, longest: int) -> None:
        from transformers import AttentionInterface

        config = self._model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or [])
        if kinds - {"full_attention", "sliding_attention"}:
            raise Unpackable(f"{type(self._model).__name__} has an attention of its own")
        rope = getattr(config, "rope_parameters", None) or {}
        for part in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
            limit = part.get("original_max_position_embeddings") or config.max_position_embeddings
            if part.get("rope_type", "default") not in _PLAIN_ROPE and longest > limit:
                raise Unpackable(f"its positions ({part['rope_type']}) depend on the longest text of a batch")
        AttentionInterface.register(NAME, self._attend)
        try:
            self._model.set_attn_implementation(NAME)
        except ValueError as error:
            raise Unpackable(f"{type(self._model).__name__} keeps its attention ({error})") from error
        self.on = True

    def _attend(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        self._called = True
        return packed_attention(*args, **kwargs)

    def check(self, run: torch.nn.Module, samples: Sequence[TokenSample], process: Process) -> None:
        """See that a text between two others in a row is to the model what it is alone; if not, pack nothing.

        Parameters
        ----------
        run
            What to call: the model, or what wraps it. Every process has to come here.
        """
        if not self.on:
            return
        device, training = process.device, run.training
        tried = samples[0].input_ids[-_TRIED:]
        # Backwards, as texts that begin or end alike are to each other what they are to themselves.
        other = samples[-1].input_ids[-_TRIED:][::-1]
        run.eval()
        try:
            with torch.no_grad():
                together, alone = (
                    run(
                        input_ids=torch.tensor([sum(texts, [])], device=device),
                        **boundaries([len(text) for text in texts], device),
                        use_cache=False,
                    ).logits[0]
                    for texts in ([other, tried, other], [tried])
                )
            packed = together[len(other) : len(other) + len(tried)]
            if not self._called:
                raise Unpackable(f"{type(self._model).__name__} has an attention of its own")
            # GPUs may differ in their kernels, and a batch that some pack and others pad is no batch.
            off = process.largest(_difference(packed.float(), alone.float()))
            if not off < self._tolerance(alone.dtype):
                raise Unpackable(f"texts in one row differ from texts alone (by {off:.1e} of their logits)")
        except Unpackable as reason:
            self._give_up(reason)
        run.train(training)

    def _tolerance(self, dtype: torch.dtype) -> float:
        if any(isinstance(module, Fp8Linear) for module in self._model.modules()):
            # What differs in a last place may be rounded to neighbours that are an eighth apart.
            return 0.3
        return 0.15 if dtype == torch.bfloat16 else 1e-3

    def release(self) -> None:
        """Give the model a plain attention back."""
        if self.on:
            _plainly(self._model)

    def _give_up(self, reason: Unpackable) -> None:
        self.on = False
        _plainly(self._model)
        print(f"packing: not for this model, {reason}; short texts are padded instead", flush=True)


def _plainly(model: PreTrainedModel) -> None:
    try:
        model.set_attn_implementation("sdpa")
    except ValueError:  # there are models without
        model.set_attn_implementation("eager")


def _difference(packed: torch.Tensor, alone: torch.Tensor) -> float:
    # In units of the spread of its logits. A model that has diverged has no logits to compare, and its own way to end.
    if not alone.isfinite().all():
        return 0.0
    off = (packed - alone).norm() / (alone - alone.mean()).norm().clamp_min(1e-6)
    return float(off) if off.isfinite() else math.inf
