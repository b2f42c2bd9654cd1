"""Benchmarks are run by hand and seldom; that they still fit the package is seen here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "results" / "bench"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_it_imports_and_its_command_is_documented(name: str) -> None:
    module = import_module(f"results.bench.{name}")
    if hasattr(module, "main") and not name.startswith("training_"):
        assert f"python -m results.bench.{name}" in (module.__doc__ or "")
        assert f"python -m results.bench.{name}" in (FOLDER / "README.md").read_text()
