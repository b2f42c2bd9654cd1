"""Packages that are imported when somebody needs them, and answer for themselves what is asked of them by everyone."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class Later(ModuleType):
    """A package's name, until something is asked of it that is not known here; then the package itself.

    Parameters
    ----------
    name
        Its full name.
    answers
        What it has, if that is all that is asked of it; forgotten once the package is there.
    marks
        Decorators of it that leave functions as they are, and only remember something about them.
    """

    # Packages have one. That it leads nowhere leaves their modules to the finder below.
    __path__: Sequence[str] = ()

    def __init__(self, name: str, answers: Mapping[str, Any], marks: Sequence[str] = ()) -> None:
        super().__init__(name)
        self._answers = answers
        self.__dict__.update(answers)
        self._marks, self._marked = frozenset(marks), []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # looked for in every module by whoever looks at all of them
            raise AttributeError(name)
        if name in self._marks:
            return lambda marked: self._marked.append((name, marked)) or marked
        return getattr(self.real(), name)

    def put(self) -> None:
        """Take the place of the package, unless it has been imported."""
        if self.__name__ not in sys.modules:
            package, _, own = self.__name__.rpartition(".")
            if package:
                setattr(importlib.import_module(package), own, self)
            sys.modules[self.__name__] = self
            if not any(isinstance(finder, _Parts) for finder in sys.meta_path):
                sys.meta_path.insert(0, _Parts())

    def real(self) -> ModuleType:
        """The package itself, in its place and told what was said about functions before."""
        if sys.modules.get(self.__name__) is not self:
            # It is there, or being imported: then its own modules ask, as they find this one in its package.
            return importlib.import_module(self.__name__)
        del sys.modules[self.__name__]
        package = importlib.import_module(self.__name__)
        for mark, marked in self._marked:
            getattr(package, mark)(marked)
        # For whoever has taken this for the package; not before, as its own modules may.
        for name in self._answers:
            self.__dict__.pop(name, None)
        return package


class _Parts(MetaPathFinder):
    """Imports of a module of such a package, which are imports of the package."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        later = sys.modules.get(name.rpartition(".")[0])
        if not isinstance(later, Later):
            return None
        package = later.real()
        return There.spec(name) or PathFinder.find_spec(name, package.__path__)


class There(Loader):
    """A module that has come while it was looked for, and would be loaded a second time by its own loader."""

    @classmethod
    def spec(cls, name: str) -> ModuleSpec | None:
        """For an import that is going on; ``None`` if it has not come."""
        come = sys.modules.pop(name, None)
        return None if come is None else ModuleSpec(name, cls(come))

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
