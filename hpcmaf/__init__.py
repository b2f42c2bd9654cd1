"""Multiagent finetuning of language models as batch jobs.

The method is that of *Multiagent Finetuning: Self Improvement with Diverse
Reasoning Chains* (ICLR 2025, arXiv:2501.05707).

What this package exports is its public Python API; ``recipes/minimal.py`` is the method written with it. Names are
imported when they are first used, so ``import hpcmaf`` itself loads nothing. From top to bottom:

- tasks: :func:`get_task`, :class:`Problem`; for a :class:`Task` of your own
  :class:`Generated` (from a seed) or :class:`Files` (from data), and a :class:`PromptSet`
- engines: :func:`base_model`, :class:`ServedModels`, :class:`Sampling`,
  :class:`TransformersEngine`, :class:`VllmEngine`, :class:`EndpointEngine`
- debates: :class:`Protocol`, :class:`Society`, :func:`debate_all`,
  :class:`Transcript`
- answers: :func:`extract` by :class:`AnswerForm`, :func:`equivalent`,
  :func:`vote`, :func:`consensus` (the vote of a debate's round), and a :class:`Grader` with ways of its own
- stores: :func:`write_store`, :class:`StoreInfo`, :class:`Store`
- selection: :func:`select`, :func:`write_selection` by the rules of a
  :class:`Selection`
- training: :class:`FinetuneJob`, :class:`Lora`, :func:`run_finetune`,
  :class:`Workers`
- evaluation: :func:`score`, :func:`mcnemar`
- errors: :class:`HpcmafError`, of which all others are subclasses
"""

from importlib import import_module

__version__ = "0.1.0"

_EXPORTS = {
    "hpcmaf.tasks": ("Task", "get_task"),
    "hpcmaf.tasks.generated": ("Generated",),
    "hpcmaf.tasks.grader": ("Grader",),
    "hpcmaf.tasks.sources": ("Files",),
    "hpcmaf.tasks.prompts": ("PromptSet",),
    "hpcmaf.tasks.problems": ("Problem",),
    "hpcmaf.models.basemodel": ("base_model",),
    "hpcmaf.engines.base": ("Sampling", "ServedModels"),
    "hpcmaf.engines.transformers_engine": ("TransformersEngine",),
    "hpcmaf.engines.vllm": ("VllmEngine",),
    "hpcmaf.engines.client": ("EndpointEngine",),
    "hpcmaf.debate.protocol": ("Protocol", "debate_all"),
    "hpcmaf.debate.methods": ("Society",),
    "hpcmaf.debate.transcript": ("Transcript",),
    "hpcmaf.debate.consensus": ("consensus",),
    "hpcmaf.answers": ("AnswerForm", "equivalent", "extract", "vote"),
    "hpcmaf.store.reader": ("Store",),
    "hpcmaf.store.schema": ("StoreInfo",),
    "hpcmaf.store.writer": ("write_store",),
    "hpcmaf.selection.select": ("select", "write_selection"),
    "hpcmaf.config.recipe": ("Lora", "Selection"),
    "hpcmaf.training.config": ("FinetuneJob",),
    "hpcmaf.training.launch": ("Workers",),
    "hpcmaf.training.job": ("run_finetune",),
    "hpcmaf.evaluation.accuracy": ("score",),
    "hpcmaf.evaluation.significance": ("mcnemar",),
    "hpcmaf.errors": ("HpcmafError",),
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
