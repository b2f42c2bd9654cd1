"""What ``hpcmaf`` exports, what is installed of it, and the program that is written with it."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

import hpcmaf

ROOT = Path(__file__).parents[1]


def test_every_public_name_is_there_and_documented() -> None:
    assert hpcmaf.__doc__ is not None
    assert sorted(set(re.findall(r":(?:func|class):`(\w+)`", hpcmaf.__doc__))) == hpcmaf.__all__
    for name in hpcmaf.__all__:
        assert getattr(hpcmaf, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hpcmaf.nothing  # noqa: B018


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, hpcmaf; print(sorted(name for name in sys.modules if 'hpcmaf' in name or name == 'torch'))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert [name for name in eval(shown) if not name.startswith("__editable__")] == ["hpcmaf"]


def test_every_name_that_is_imported_is_there() -> None:
    """Also inside functions, in recipes and beside results; triton is on GPUs alone."""
    files = [path for room in ("hpcmaf", "recipes", "results") for path in (ROOT / room).rglob("*.py")]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    found = [node for node in nodes if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hpcmaf")]
    names = {(node.module, one.name) for node in found for one in node.names}
    for module, name in sorted(names):
        if module != "hpcmaf.training.fp8_triton":
            there = hasattr(importlib.import_module(module), name)
            assert there or importlib.util.find_spec(f"{module}.{name}"), f"{module}.{name}"


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("store.verify", "torch transformers sympy rich"),
        ("tasks.sources, hpcmaf.cli.data", "datasets pyarrow torch"),
        ("report.report, hpcmaf.evaluation.alarm, hpcmaf.cli.aggregate", "torch transformers matplotlib sympy h5py"),
        ("selection.select, hpcmaf.answers", "torch transformers sympy math_verify"),
        ("training.job, hpcmaf.cli.select", "torch transformers deepspeed peft"),
    ],
)
def test_importing_a_room_is_cheap(modules: str, heavy: str) -> None:
    code = f"import sys, hpcmaf.{modules}; print({set(heavy.split())} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


def test_the_method_fits_a_screen() -> None:
    lines = (ROOT / "recipes" / "minimal.py").read_text().splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 120
    assert not [line for line in lines if re.search(r"hpcmaf\.\w", line) and "import" in line]


@pytest.mark.slow
def test_the_method_in_one_screen_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At a smaller size: every agent is finetuned twice, each time from its own model."""
    runpy.run_path(str(ROOT / "recipes" / "minimal.py"))["main"](tmp_path, training=12, held_out=4)
    found = re.findall(r"^iteration (\d): (\d+\.\d)%$", capsys.readouterr().out, re.MULTILINE)
    assert [number for number, _ in found] == ["0", "1", "2"]
    agents = {f"{role}-{n}" for role in ("generator", "critic") for n in range(3)}
    weights = {
        t: {path.parent.name: path.read_bytes() for path in tmp_path.glob(f"it0{t}/agents/*/adapter_model.safetensors")}
        for t in (1, 2)
    }
    assert set(weights[1]) == set(weights[2]) == agents
    assert len({*weights[1].values(), *weights[2].values()}) == 12, "no two of them are the same"


def test_every_package_is_installed() -> None:
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    named = set(settings["options"]["packages"].split())
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("hpcmaf/**/__init__.py")}
    # Recipes and profiles lie at the top of the checkout.
    assert named == found | {"hpcmaf.recipes", "hpcmaf.profiles"}
