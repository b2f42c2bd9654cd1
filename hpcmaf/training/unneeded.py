"""What libraries of finetuning do at a job's start for features that no job here uses, left out."""

from __future__ import annotations

import importlib

from hpcmaf.imports.swap import Anything, instead, instead_of_module


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


def import_liger() -> None:
    """Import liger's way to put its kernels into models, without what its own models' forward passes return.

    Those are classes of a dozen of transformers' models, and jobs keep transformers' forward passes.
    """
    name = "liger_kernel.transformers.model.output_classes"
    with instead_of_module(name, Anything(name)):
        importlib.import_module("liger_kernel.transformers.monkey_patch")
