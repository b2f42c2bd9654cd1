"""The transformers engine, imported without what its libraries import for others."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcmaf.engines.transformers_engine import TransformersEngine


def transformers_engine() -> type[TransformersEngine]:
    """The engine's class; a task of a small model waits for these imports longer than for its answers."""
    from hpcmaf.imports.light import lightly

    with lightly():
        from hpcmaf.engines.transformers_engine import TransformersEngine
    return TransformersEngine
