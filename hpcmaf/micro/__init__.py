"""The packaged base model for laptops and tests; ``results/micro_model`` is what made it."""

from __future__ import annotations

from pathlib import Path


def base_path() -> Path:
    """Folder of the packaged micro model (a Hugging Face checkpoint, float32)."""
    return Path(__file__).parent / "weights"
