"""What torch's operations make of tensors without memory, in Python, imported when one has no other answer.

``import torch`` defines such answers for two thousand operations, with the decompositions and reference operations
that they are made of: a quarter of that import, and an eighth of all that a job imports. The compiler and whoever
traces need them; a model that is made without memory, before it takes weights, seldom does.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar

from hpcmaf.imports.later import Later, There

NAME = "torch._meta_registrations"
# What they import in a circle, which nobody else may enter at another place.
_CIRCLE = {"torch._prims", "torch._prims_common.wrappers", "torch._refs", "torch._decomp", "torch.utils._content_store"}
Made = TypeVar("Made")


class Metas(Later):
    """Their place, with the one answer that Llama 3's rotary positions ask for."""

    def begin(self) -> None:
        """Import torch without them."""
        sys.modules[NAME] = self
        import torch
        from torch import library as operations
        from torch._subclasses.fake_tensor import FakeTensorMode

        if hasattr(torch._C, "_set_generator_metaclass"):
            # Among the same modules since torch 2.13, and without it nothing can be drawn.
            torch._C._set_generator_metaclass(importlib.import_module("torch._opaque_base").OpaqueBaseMeta)
        self._own = operations.Library("aten", "IMPL", "Meta")
        self._own.impl("where.self", _where)
        self._faking = begin_faking = FakeTensorMode.__init__

        def begin(mode: FakeTensorMode, *some: Any, **more: Any) -> None:
            metas()
            begin_faking(mode, *some, **more)

        # It looks for itself what an operation has.
        FakeTensorMode.__init__ = begin
        sys.meta_path.insert(0, _Circle())

    def real(self) -> Any:
        from torch._subclasses.fake_tensor import FakeTensorMode

        if sys.modules.get(NAME) is self:
            # Nobody may answer twice.
            self._own._destroy()
            sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Circle)]
            FakeTensorMode.__init__ = self._faking
        return super().real()


class _Circle(MetaPathFinder):
    """Imports of what is in the circle, which begin with its first."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _CIRCLE:
            return None
        metas()
        return There.spec(name)


def _where(condition: Any, one: Any, other: Any) -> Any:
    import torch

    return torch.empty_like(one + other + condition, dtype=torch.result_type(one, other))


def metas_later() -> None:
    """Import torch without them, if it has not been imported yet."""
    if "torch" not in sys.modules:
        Metas(NAME, {}).begin()


def metas() -> bool:
    """Import them now; returns whether they were not there."""
    later = sys.modules.get(NAME)
    if not isinstance(later, Metas):
        return False
    later.real()
    return True


def with_metas(make: Callable[[], Made]) -> Made:
    """What ``make`` returns, which is called once more with them if it wants one of them."""
    try:
        return make()
    except NotImplementedError:
        if not metas():
            raise
    return make()
