"""What a process keeps from one job of a series for the next."""

from __future__ import annotations

import gc
from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING, Any

import torch

from hpcmaf.chat import ChatFormat
from hpcmaf.training.data import TokenData
from hpcmaf.training.early import EarlyWeights
from hpcmaf.training.spec import FinetuneJob

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Held:
    """The frozen base of the last job, and the data of the one that is to come.

    Attributes
    ----------
    reused
        What of it the last job could use: ``"base"``, ``"data"``.
    early
        Weights of the first job's base that are being read.
    """

    def __init__(self, early: EarlyWeights | None = None) -> None:
        self.early = early
        self._base: tuple[tuple[object, ...], PreTrainedModel] | None = None
        self._data: dict[FinetuneJob, tuple[ChatFormat, TokenData]] = {}
        self._preparing: Thread | None = None
        self.reused: list[str] = []

    def base(
        self, job: FinetuneJob, dtype: object, device: str, load: Callable[[], PreTrainedModel]
    ) -> PreTrainedModel:
        """The base that a job wants: the one that is here, or a newly loaded one."""
        held, self._base = self._base, None
        if held is not None and held[0] == _kind(job, dtype, device):
            self.reused.append("base")
            return held[1]
        del held
        return load()

    def keep(self, job: FinetuneJob, dtype: object, device: str, model: Any) -> None:
        """Take a base back out of its adapter, once its job is over.

        Parameters
        ----------
        job
            With the ZeRO stage that it had: under ZeRO-3 a base is in parts
            that belong to one engine, so it is not kept.
        """
        if job.tuning == "lora" and not _in_parts(job):
            base = model.unload()
            for name in ("peft_config", "_hf_peft_config_loaded", "forward"):
                base.__dict__.pop(name, None)
            self._base = (_kind(job, dtype, device), base)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            # The next job reports its own peak.
            torch.cuda.reset_peak_memory_stats()

    def prepare(self, job: FinetuneJob, load: Callable[[FinetuneJob], tuple[ChatFormat, TokenData]]) -> None:
        """Begin to tokenize a coming job's data, beside the training of this one."""

        def work() -> None:
            try:
                self._data = {job: load(job)}
            except Exception:  # it is met again, and told, when that job begins
                self._data = {}

        self._preparing = Thread(target=work, daemon=True)
        self._preparing.start()

    def data(
        self, job: FinetuneJob, load: Callable[[FinetuneJob], tuple[ChatFormat, TokenData]]
    ) -> tuple[ChatFormat, TokenData]:
        """A job's data, prepared or not."""
        if self._preparing is not None:
            self._preparing.join()
            self._preparing = None
        found = self._data.pop(job, None)
        self.reused = [] if found is None else ["data"]
        return found if found is not None else load(job)


def _in_parts(job: FinetuneJob) -> bool:
    return job.zero_stage == 3 or job.offload == "params"


def _kind(job: FinetuneJob, dtype: object, device: str) -> tuple[object, ...]:
    return (
        job.tuning,
        _in_parts(job),
        job.base,
        job.revision,
        job.trust_remote_code,
        job.quantize,
        job.gradient_checkpointing,
        str(dtype),
        device,
    )
