"""What libraries would do at a job's start is left out where no job uses it, and only there."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from importlib import metadata

import pytest

# Packages that must not be imported; transformers has them in sight.
IMPORTS = """
import sys
sys.path.insert(0, sys.argv[1])
import transformers.utils as utils
assert utils.is_sklearn_available() and utils.is_scipy_available() and utils.is_torchvision_available()
if sys.argv[2] == "ours":
    from hpcmaf.imports.light import import_transformers
    from hpcmaf.training.unneeded import skip_inductor
    import_transformers()
    skip_inductor()
    assert utils.is_sklearn_available() and utils.is_scipy_available() and utils.is_torchvision_available()
    import deepspeed.runtime.engine as engine
    import deepspeed.runtime.zero.muon.original_muon
    assert not engine.is_deepcompile_supported() and "torch._inductor.lowering" not in sys.modules
    assert "transformers.loss.loss_for_object_detection" not in sys.modules
import transformers.modeling_utils, transformers.generation
"""
LOSSES = """
import sys
from hpcmaf.imports.light import import_transformers
import_transformers()
from transformers.loss.loss_utils import LOSS_MAPPING
name = "transformers.loss.loss_for_object_detection"
assert name not in sys.modules
try:
    LOSS_MAPPING["ForObjectDetection"]()
except TypeError as error:
    assert "missing" in str(error) and name in sys.modules
    print("its own")
"""


@pytest.mark.slow
@pytest.mark.parametrize("who", ["ours", "plain"])
def test_no_job_imports_what_it_does_not_use(tmp_path, who):
    for name in ("sklearn", "scipy", "torchvision"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported')\n")
        (tmp_path / f"{name}-9.0.dist-info").mkdir()
        (tmp_path / f"{name}-9.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 9.0\n")
    done = subprocess.run([sys.executable, "-c", IMPORTS, str(tmp_path), who], capture_output=True, text=True)
    # The other way round it shows that the trap works.
    assert (done.returncode == 0) == (who == "ours"), done.stderr
    assert who == "ours" or "imported" in done.stderr


@pytest.mark.slow
def test_other_losses_come_when_they_are_called():
    done = subprocess.run([sys.executable, "-c", LOSSES], capture_output=True, text=True)
    assert done.stdout.endswith("its own\n"), done.stderr


@pytest.mark.slow
def test_a_rendezvous_of_one_waits_for_nobody(monkeypatch):
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous as rendezvous

    from hpcmaf.training.unneeded import skip_skew

    slept: list[float] = []
    monkeypatch.setattr(rendezvous, "_delay", rendezvous._delay)
    monkeypatch.setattr(time, "sleep", slept.append)
    rendezvous._delay((0.2, 0.3))
    skip_skew()
    rendezvous._delay((0.2, 0.3))
    rendezvous._delay(seconds=1)
    assert len(slept) == 2 and 0.2 <= slept[0] <= 0.3 and slept[1] == 1


def test_a_package_is_found_without_a_list_of_all():
    from hpcmaf.imports.light import Distributions

    asked = []

    def everything() -> dict[str, list[str]]:
        asked.append(1)
        return metadata.packages_distributions()

    few, whole = Distributions(everything), metadata.packages_distributions()
    for name in ("torch", "transformers", "numpy"):
        assert few[name] == whole[name]
    assert not asked
    assert few["yaml"] == whole["yaml"] and few.get("no_such_package", []) == []  # PyYAML's name is another
    assert dict(few) == whole and len(few) == len(whole) and asked == [1]


def test_a_module_is_another_one_only_for_as_long(monkeypatch):
    from hpcmaf.imports.swap import Anything, instead_of_module

    name = "hpcmaf.no_such_module"
    with instead_of_module(name, Anything(name)):
        from hpcmaf.no_such_module import Whatever, _another
    assert isinstance(Whatever, type) and isinstance(_another, type) and name not in sys.modules
    with pytest.raises(ImportError):
        importlib.import_module(name)
    with instead_of_module("json", Anything("json")):
        assert importlib.import_module("json").dumps(1) == "1"
