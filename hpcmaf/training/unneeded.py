"""What libraries do at a job's start for features that no job here uses, left out.

Most of it is imports: half a second or two each, of every job, on a machine that has the package.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from types import ModuleType, SimpleNamespace
from typing import Any

from hpcmaf.training.later import Later
from hpcmaf.training.modelnames import know_names


@contextmanager
def instead(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give a module or a class another attribute for as long as this lasts."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def skip_skew() -> None:
    """Keep torchrun's rendezvous from waiting, up to 0.3 s, for the others not to come all at once: there are none."""
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous as rendezvous

    delay = getattr(rendezvous, "_delay", None)
    if delay is not None:
        rendezvous._delay = lambda seconds: None if isinstance(seconds, tuple) else delay(seconds)


def skip_inductor() -> None:
    """Keep DeepSpeed from loading all of Inductor.

    ``deepspeed.initialize`` imports its Muon optimiser under ZeRO just to ask
    whether it is the one in use, and that one's decorators compile; and where
    there is a GPU, it registers the passes of a compiler (DeepCompile) that has
    to be asked for.
    """
    from deepspeed.runtime import compiler, engine

    with instead(compiler, "compile", lambda *_, **__: lambda function: function):
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    if hasattr(engine, "is_deepcompile_supported"):
        engine.is_deepcompile_supported = lambda: False


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


def import_transformers() -> None:
    """Import transformers' causal models, and little else.

    Assisted generation would measure with scikit-learn, losses of object
    detection with SciPy and torchvision, and sounds be read by torchaudio;
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
        from transformers import utils
    with ExitStack() as stack:
        for name in ("sklearn", "scipy", "torchvision", "torchaudio"):
            if hasattr(utils, f"is_{name}_available"):
                stack.enter_context(instead(utils, f"is_{name}_available", lambda: False))
        # Masks that are made by compiled functions, which packed texts have none of, and others seldom.
        wrapped = "torch._dynamo._trace_wrapped_higher_order_op"
        with instead_of_module(wrapped, _Wrapped(wrapped)):
            importlib.import_module("transformers.masking_utils")
        importlib.import_module("transformers.generation.candidate_generator")
        importlib.import_module("transformers.loss.loss_utils")
        for name in ("utils.type_validators", "modeling_layers"):
            with suppress(ImportError):  # of newer releases; they look at pictures, videos and sounds too
                importlib.import_module(f"transformers.{name}")
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401


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
    }
    Later("torch._dynamo", answers, marks=("allow_in_graph", "assume_constant_result")).put()


@contextmanager
def unparallel() -> Iterator[None]:
    """Import torch's tensor parallelism when somebody else wants it, and FSDP after this.

    transformers and PEFT ask of tensors whether they are of its classes, as no job's are.
    """
    importlib.import_module("torch.distributed")
    root = "torch.distributed.tensor"
    whose = {name: _nobody(name) for name in ("DTensor", "Shard", "Replicate", "Partial", "distribute_tensor")}
    Later(root, whose).put()
    with ExitStack() as stack:
        if isinstance(sys.modules[root], Later):
            for name in (f"{root}._utils", f"{root}.placement_types"):
                stack.enter_context(instead_of_module(name, _Anything(name)))
        for name in ("torch.distributed.fsdp", "torch.distributed._composable.fsdp"):
            stack.enter_context(instead_of_module(name, _Anything(name)))
        yield


def import_liger() -> None:
    """Import liger's way to put its kernels into models, without what its own models' forward passes return.

    Those are classes of a dozen of transformers' models, and jobs keep transformers' forward passes.
    """
    name = "liger_kernel.transformers.model.output_classes"
    with instead_of_module(name, _Anything(name)):
        importlib.import_module("liger_kernel.transformers.monkey_patch")


@contextmanager
def instead_of_module(name: str, module: ModuleType | None) -> Iterator[None]:
    """Let imports of a module that is not imported yet get another one, or fail, for as long as this lasts."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = module  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


class _Anything(ModuleType):
    """Has a class of whatever name is asked for."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _nobody(name)


def _nobody(name: str) -> type:
    """A class that can be made objects of, and that nobody else's are of."""
    return type(name, (), {"__init__": lambda *_, **__: None})


class _Wrapped(ModuleType):
    """Has functions that import the module when they are called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *some, **more: getattr(importlib.import_module(self.__name__), name)(*some, **more)
