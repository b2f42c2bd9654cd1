"""The transformers engine, imported where it is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcmaf.engines.transformers_engine import TransformersEngine


def transformers_engine() -> type[TransformersEngine]:
    """The engine's class."""
    from hpcmaf.engines.transformers_engine import TransformersEngine

    return TransformersEngine
