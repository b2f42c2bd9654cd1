"""Modules and their attributes, exchanged for a while."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def instead(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give a module or a class another attribute for as long as this lasts."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


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


class Anything(ModuleType):
    """Has a class of whatever name is asked for."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return nobody(name)


def nobody(name: str) -> type:
    """A class that can be made objects of, and that nobody else's are of."""
    return type(name, (), {"__init__": lambda *_, **__: None})


class Wrapped(ModuleType):
    """Has functions that import the module when they are called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *some, **more: getattr(importlib.import_module(self.__name__), name)(*some, **more)
