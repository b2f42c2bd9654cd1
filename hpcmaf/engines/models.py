"""Loading what a transformers engine serves."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from hpcmaf.chat import ChatFormat
from hpcmaf.engines.base import Request, ServedModels
from hpcmaf.engines.mixing import mix_in_place
from hpcmaf.errors import EngineError, PlatformError


def pick_device(name: str) -> torch.device:
    """Turn ``auto`` into what the machine has.

    Raises
    ------
    PlatformError
        ``cuda`` was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise PlatformError("device cuda was asked for, but torch sees no GPU; set device: cpu or auto in the profile")
    return torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


class ModelPool:
    """The base with its adapters, or the base and whole checkpoints.

    Parameters
    ----------
    served
        What to serve.
    capacity
        Most checkpoints in memory at once; the one used longest ago goes
        first. Adapters do not count: they share the base.
    """

    def __init__(self, served: ServedModels, device: torch.device, capacity: int) -> None:
        self.served = served
        self.device = device
        self.capacity = capacity
        self._loaded: OrderedDict[str | None, Any] = OrderedDict()
        self.chat = ChatFormat.from_pretrained(
            served.base,
            revision=served.revision,
            trust_remote_code=served.trust_remote_code,
            date=served.date,
        )
        tokenizer = self.chat.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token_id is None:
            # Padding is masked; any id will do, and the end of a turn is always there.
            tokenizer.pad_token_id = self.chat.end_of_turn[-1]
        config = self._from_pretrained(AutoConfig, served.base)
        self.context: int = getattr(config.get_text_config(), "max_position_embeddings", None) or 2**31
        self.stop_ids = list(self.chat.stop_ids)

    def _from_pretrained(self, loader: Any, path: str, **kwargs: Any) -> Any:
        revision = self.served.revision if path == self.served.base else None
        try:
            remote = self.served.trust_remote_code
            return loader.from_pretrained(path, revision=revision, trust_remote_code=remote, **kwargs)
        except Exception as error:  # a damaged checkpoint makes the loaders raise almost anything
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise EngineError(f"model {path}: cannot be loaded ({reason}); check model.path in the recipe") from error

    def prompt(self, request: Request) -> list[int]:
        """Tokens a request gives its model: those to answer, or those to score."""
        if request.scored:
            return self.chat.sample(request.messages).input_ids
        return self.chat.prompt_ids(request.messages)

    def group(self, model: str | None) -> str | None:
        """Which batch a request for ``model`` can share: all adapters share the base's."""
        return None if self.served.tuning == "lora" else model

    @property
    def groups(self) -> int:
        """Checkpoints there are to load."""
        return 1 if self.served.tuning == "lora" else 1 + len(self.served.agents)

    def get(self, group: str | None) -> Any:
        """The model of a batch, loaded if need be."""
        if group not in self._loaded:
            while len(self._loaded) >= self.capacity:
                self._loaded.popitem(last=False)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            self._loaded[group] = self._load(group)
        self._loaded.move_to_end(group)
        return self._loaded[group]

    def loaded(self, group: str | None) -> bool:
        """Whether a batch of this group needs no loading."""
        return group in self._loaded

    def _load(self, group: str | None) -> Any:
        path = self.served.base if group is None else self.served.agents[group]
        model = self._from_pretrained(AutoModelForCausalLM, path, dtype=self.served.dtype).to(self.device)
        if self.served.tuning == "lora" and self.served.agents:
            from peft import PeftModel

            for name, adapter in self.served.agents.items():
                if not Path(adapter, "adapter_config.json").exists():
                    raise EngineError(f"{adapter}: holds no PEFT adapter for {name}; finetune it again")
                if isinstance(model, PeftModel):
                    model.load_adapter(adapter, adapter_name=name)
                else:
                    model = PeftModel.from_pretrained(model, adapter, adapter_name=name)
            mix_in_place(model)
        # The model's own defaults (temperature, top-k, penalties) must not leak in.
        model.generation_config = GenerationConfig(
            do_sample=False, pad_token_id=self.chat.tokenizer.pad_token_id, eos_token_id=self.stop_ids
        )
        if hasattr(model, "get_base_model"):
            model.get_base_model().generation_config = model.generation_config
        return model.eval()

    def close(self) -> None:
        """Drop all models."""
        self._loaded.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
