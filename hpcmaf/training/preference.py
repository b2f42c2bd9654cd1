"""Direct preference optimisation by TRL, under the loop, checkpoints and ZeRO of every other job.

TRL brings the collator, the log-probabilities, which never make the logits of
a whole text, and the loss. Its Trainer is left out: a second loop would need a
second way to stop, to go on exactly, and to watch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from hpcmaf.training.data import share
from hpcmaf.training.pairs import TokenPair
from hpcmaf.training.place import Place
from hpcmaf.training.spec import FinetuneJob

if TYPE_CHECKING:
    from trl import DPOTrainer

# TRL's names of what is told of every step, and ours.
_MEASURES = {"reward_margin": "rewards/margins", "reward_accuracy": "rewards/accuracies"}


class Preference:
    """To prefer, of each pair, the chosen answer: TRL's sigmoid loss, over the number of pairs.

    The reference is the model as it starts, adapter included, so its
    log-probabilities are computed once, before the first step, and no second
    model is held.

    Parameters
    ----------
    run
        What to call: the model under DeepSpeed, still as the job starts.
    pairs
        All of the job's. Every process has to come here with the same.
    """

    measures = tuple(_MEASURES)

    def __init__(
        self, run: torch.nn.Module, model: torch.nn.Module, job: FinetuneJob, place: Place, pairs: Sequence[TokenPair]
    ) -> None:
        from trl.trainer.dpo_trainer import DataCollatorForPreference
        from trl.trainer.utils import add_fused_lm_head

        self._run, self._place = run, place
        # A pair is two texts of a forward pass.
        self._size = max(1, job.micro_batch_size // 2)
        self._collate = DataCollatorForPreference(pad_token_id=0)
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        add_fused_lm_head(inner, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
        self._trl = _loss_of_trl(run, job.dpo_beta, place.device)
        self._sums = [0.0] * len(_MEASURES)
        self._reference = self._by_reference(pairs)

    def weight(self, batch: Sequence[TokenPair]) -> int:
        """Pairs."""
        return len(batch)

    def parts(self, batch: Sequence[TokenPair]) -> list[Sequence[TokenPair]]:
        """Padded micro-batches of pairs of like length."""
        return share(batch, rank=self._place.rank, processes=self._place.processes, micro_batch_size=self._size)

    def loss(self, part: Sequence[TokenPair], filler: TokenPair) -> torch.Tensor:
        """Sum over the part's pairs."""
        pairs = part or [filler]
        names = ("ref_chosen_logps", "ref_rejected_logps")
        columns = [pair.columns() | dict(zip(names, self._reference[pair.id], strict=True)) for pair in pairs]
        mean = self._trl.compute_loss(self._run, self._tensors(columns))
        told = self._trl._metrics["train"]
        for at, name in enumerate(_MEASURES.values()):
            self._sums[at] += told[name][-1] * len(part)
        told.clear()
        return mean * len(part)

    def measured(self) -> list[float]:
        """Sums of margins and of right preferences since the last call."""
        sums, self._sums = self._sums, [0.0] * len(_MEASURES)
        return sums

    def _tensors(self, columns: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self._place.device) for name, tensor in self._collate(columns).items()}

    def _by_reference(self, pairs: Sequence[TokenPair]) -> dict[str, tuple[float, float]]:
        """Log-probabilities of both answers of every pair, as the model starts."""
        found: dict[str, tuple[float, float]] = {}
        training = self._run.training
        self._run.eval()
        for part in self.parts(pairs):
            texts = self._tensors([pair.columns() for pair in part or pairs[:1]])
            chosen, rejected = self._trl.compute_ref_log_probs(self._run, texts)
            found |= {p.id: both for p, *both in zip(part, chosen.tolist(), rejected.tolist(), strict=False)}
        self._run.train(training)
        everyones = [found] * self._place.processes
        if self._place.processes > 1:
            dist.all_gather_object(everyones, found)
        return {name: both for own in everyones for name, both in own.items()}


def _loss_of_trl(run: torch.nn.Module, beta: float, device: torch.device) -> DPOTrainer:
    """TRL's trainer, as far as its loss reads it."""
    from collections import defaultdict

    from trl import DPOTrainer

    class Loss(DPOTrainer):
        def __init__(self) -> None:
            self.model = run
            # Not None: the reference is what is called, and not an adapter switched off.
            self.ref_model = run
            self.beta, self.precompute_ref_logps = beta, True
            self.loss_types, self.loss_weights, self.f_divergence_type = ["sigmoid"], [1.0], "reverse_kl"
            self.ld_alpha, self.use_weighting, self.aux_loss_enabled = None, False, False
            self.args = SimpleNamespace(max_length=None, gradient_checkpointing_kwargs={"use_reentrant": False})
            self.accelerator = SimpleNamespace(
                device=device, autocast=nullcontext, gather=_own, gather_for_metrics=_own, unwrap_model=_own
            )
            self._metrics = {mode: defaultdict(list) for mode in ("train", "eval")}
            self._total_train_tokens, self._tp_size = 0, 1

    return Loss()


def _own(value: Any) -> Any:
    # Sums over processes are made once a step, with the loss.
    return value
