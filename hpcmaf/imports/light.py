"""torch and transformers without what is for others."""

from __future__ import annotations

import importlib
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from types import SimpleNamespace
from typing import Any

from hpcmaf.imports.later import Later
from hpcmaf.imports.metas import metas_later
from hpcmaf.imports.modelnames import know_names
from hpcmaf.imports.sizes import sizes_later
from hpcmaf.imports.swap import Anything, Wrapped, instead, instead_of_module, nobody

# What is asked of torch's packages for work on one tensor in many processes.
_PARALLEL = {
    "tensor": ("DTensor", "Shard", "Replicate", "Partial", "distribute_tensor"),
    "fsdp": ("FullyShardedDataParallel", "CPUOffloadPolicy", "MixedPrecisionPolicy"),
}
# Functions between the processes of a parallel tensor.
_COLLECTIVES = "torch.distributed._functional_collectives"
# Modules with more of the same, and the packages they come with.
_MORE = {"tensor._utils": "tensor", "tensor.placement_types": "tensor", "_composable.fsdp": "fsdp"}
# Losses of transformers that are not of texts.
_OTHER_LOSSES = (
    *("d_fine", "deformable_detr", "deimv2", "for_object_detection", "grounding_dino", "lw_detr", "rf_detr", "rnnt"),
    *("rt_detr", "tdt"),
)


def compile_later() -> None:
    """Import torch's compiler when something is compiled.

    What may be compiled asks it not to, or not across a line, as each method of an optimizer does. For that
    ``torch._dynamo`` is imported, with parts of Inductor: a tenth of what a job imports.
    """

    def disable(fn: Any = None, *_: object, **__: object) -> Any:
        return (lambda function: function) if fn is None else fn

    answers = {
        "disable": disable,
        "graph_break": lambda *_, **__: None,
        # Called as process groups begin, for the sake of what was imported too early.
        "trace_rules": SimpleNamespace(clear_lru_cache=lambda: None),
        # What a model is not, while it is saved.
        "eval_frame": SimpleNamespace(OptimizedModule=nobody("OptimizedModule")),
    }
    Later("torch._dynamo", answers, marks=("allow_in_graph", "assume_constant_result")).put()


@contextmanager
def unparallel() -> Iterator[None]:
    """Import torch's tensor parallelism and FSDP when somebody else wants them, also after this.

    transformers and PEFT ask of tensors and modules whether they are of their classes, as no task's are. While this
    lasts, other parts of them are nobody's either.
    """
    for name, classes in _PARALLEL.items():
        Later(f"torch.distributed.{name}", {each: nobody(each) for each in classes}).put()
    with ExitStack() as stack:
        for part, package in _MORE.items():
            # One that has been imported has its own.
            if isinstance(sys.modules[f"torch.distributed.{package}"], Later):
                name = f"torch.distributed.{part}"
                stack.enter_context(instead_of_module(name, Anything(name)))
        stack.enter_context(instead_of_module(_COLLECTIVES, Wrapped(_COLLECTIVES)))
        yield


@contextmanager
def lightly() -> Iterator[None]:
    """Import transformers, and whatever needs it within the block, without what is for others."""
    metas_later()
    compile_later()
    sizes_later()
    with unparallel():
        import_transformers()
        yield


def import_transformers() -> None:
    """Import transformers' causal models, and little else.

    Assisted generation would measure with scikit-learn, pictures be read by
    torchvision and sounds by torchaudio, and losses of both be defined;
    everything that is installed would be listed, and the source of all models
    be read for the names in it.
    """
    every = metadata.packages_distributions
    know_names()
    with ExitStack() as stack:
        stack.enter_context(instead(metadata, "packages_distributions", lambda: Distributions(every)))
        for client in ("httpx", "httpx2"):
            # Its program for the command line, which draws tables; without, it says what to install.
            stack.enter_context(instead_of_module(f"{client}._main", None))
        # Which the same client would lend itself to, were it called by it.
        stack.enter_context(instead_of_module("trio", None))
        from transformers import utils
    # How models read pictures and sounds; of texts they take from it but a word for types.
    Later("transformers.processing_utils", {"Unpack": typing.Unpack}).put()
    with ExitStack() as stack:
        for name in ("sklearn", "scipy", "torchvision", "torchaudio"):
            if hasattr(utils, f"is_{name}_available"):
                stack.enter_context(instead(utils, f"is_{name}_available", lambda: False))
        # Masks that are made by compiled functions, which packed texts have none of, and others seldom.
        wrapped = "torch._dynamo._trace_wrapped_higher_order_op"
        with instead_of_module(wrapped, Wrapped(wrapped)):
            importlib.import_module("transformers.masking_utils")
        importlib.import_module("transformers.generation.candidate_generator")
        with ExitStack() as losses:
            for other in _OTHER_LOSSES:
                name = f"transformers.loss.loss_{other}"
                losses.enter_context(instead_of_module(name, Wrapped(name)))
            importlib.import_module("transformers.loss.loss_utils")
        for name in ("utils.type_validators", "modeling_layers"):
            with suppress(ImportError):  # of newer releases; they look at pictures, videos and sounds too
                importlib.import_module(f"transformers.{name}")
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401


class Distributions(Mapping[str, list[str]]):
    """What ``importlib.metadata.packages_distributions()`` tells, found out for the packages that are asked for.

    That reads the file list of everything installed, a second where much is. Most packages are in a distribution of
    their own name; for any other all are read after all.

    Parameters
    ----------
    everything
        The function itself.
    """

    def __init__(self, everything: Callable[[], Mapping[str, list[str]]]) -> None:
        self._everything = everything
        self._known: Mapping[str, list[str]] | None = None

    def _all(self) -> Mapping[str, list[str]]:
        if self._known is None:
            self._known = self._everything()
        return self._known

    def __getitem__(self, package: str) -> list[str]:
        if self._known is None:
            try:
                return [metadata.distribution(package).name]
            except metadata.PackageNotFoundError:
                pass
        return self._all()[package]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())
