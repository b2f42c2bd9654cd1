"""Arrows between the report's modules run one way."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import hpcmaf.report

PACKAGE = "hpcmaf.report"


def imported(source: str) -> set[str]:
    """Modules of the package that a source names, also inside functions and for types alone."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) and node.module]
    return {node.module.removeprefix(f"{PACKAGE}.") for node in nodes if node.module.startswith(f"{PACKAGE}.")}


def test_no_module_is_needed_by_what_it_needs() -> None:
    modules = [path for path in Path(hpcmaf.report.__file__).parent.glob("*.py") if path.stem != "__init__"]
    arrows = {path.stem: imported(path.read_text(encoding="utf-8")) for path in modules}
    assert {"records", "sections"} <= arrows["report"]
    assert list(TopologicalSorter(arrows).static_order())[-1] == "report"  # raises CycleError
