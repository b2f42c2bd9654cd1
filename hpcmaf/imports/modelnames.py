"""What transformers' modules of models are called and hold, found out once and not in every process.

``import transformers`` reads the source of all its models, 1,600 files, for
the names in them, and ``transformers.models`` does so again: half a second of
every start. The names are kept in the user's cache, under the hash of what pip
wrote down of the installed files.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from hpcmaf.publish import write_json
from hpcmaf.usercache import user_cache

_WHERE = "transformers.utils.import_utils"
# By what is needed for them: modules, and the names in each.
Names = Mapping[frozenset[str], Mapping[str, set[str]]]


def know_names() -> None:
    """Let transformers, where it is not imported yet, find the names kept."""
    if _WHERE not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds one module, once, where all others would, and changes a function of it before anyone else has it."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _WHERE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            define = getattr(module, "define_import_structure", None)
            if define is not None:
                module.define_import_structure = remembering(define, Path(str(spec.origin)).parents[1] / "models")

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def remembering(define: Callable[..., Names], models: Path) -> Callable[..., Names]:
    """transformers' function that reads names, which for its folder of models looks into the cache first."""
    found: list[Names] = []

    def defined(module_path: str | Path, prefix: str | None = None) -> Names:
        if Path(module_path) not in (models, models / "__init__.py"):
            return define(module_path, prefix)
        if not found:
            found.append(_kept() or _keep(define(str(models))))
        begin = f"{prefix}." if prefix else ""
        # Their caller adds to what it is given.
        return {
            needs: {begin + name: set(objects) for name, objects in modules.items()}
            for needs, modules in found[0].items()
        }

    return defined


def _place() -> Path | None:
    """Where the names of the installed files are kept; ``None`` where nobody knows what is installed, or nowhere."""
    try:
        record = metadata.distribution("transformers").read_text("RECORD") or ""
        # Of one that is edited in place only a link is written down.
        if "transformers/models/__init__.py," not in record:
            return None
        return user_cache("names") / f"transformers-{hashlib.sha256(record.encode()).hexdigest()[:24]}.json"
    except (metadata.PackageNotFoundError, OSError):
        return None


def _kept() -> Names | None:
    place = _place()
    if place is None:
        return None
    try:
        content = json.loads(place.read_text())
        return {frozenset(needs): {name: set(own) for name, own in modules.items()} for needs, modules in content}
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _keep(names: Names) -> Names:
    place = _place()
    if place is not None:
        content = [
            [sorted(needs), {name: sorted(objects) for name, objects in modules.items()}]
            for needs, modules in names.items()
        ]
        with suppress(OSError):  # it is found out again, then
            write_json(place, content)
    return names
